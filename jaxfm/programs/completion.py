"""Prints a completion script for a shell: `python -m jaxfm.completion bash`.

It completes programs, flags, names of configs and keys of the config. Keep it where the shell looks for such scripts:

  jaxfm completion bash > ~/.local/share/bash-completion/completions/jaxfm
  jaxfm completion zsh > ~/.zfunc/_jaxfm      # a folder in $fpath
  jaxfm completion fish > ~/.config/fish/completions/jaxfm.fish

Print it again after an update.
"""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence

from jaxfm.errors import UserError, did_you_mean
from jaxfm.programs import catalog, launch, program, shipped
from jaxfm.schema import Key
from jaxfm.tasks import registry

USAGE = "usage: python -m jaxfm.completion bash|zsh|fish"
# Programs that are no modules with flags.
_WITHOUT_FLAGS = ("launch", "version")


@dataclasses.dataclass(frozen=True)
class Words:
    """What may follow `jaxfm`.

    Attributes:
      programs: name -> what it does.
      flags: program -> its flags -> what they are; a flag that has a value ends in =.
      configs: program -> names of configs, for programs that take one.
      keys: flag of a key of the config (ending in =) -> what it is.
      first: program -> what its first word may be, of programs without flags.
    """

    programs: Mapping[str, str]
    flags: Mapping[str, Mapping[str, str]]
    configs: Mapping[str, Sequence[str]]
    keys: Mapping[str, str]
    first: Mapping[str, Sequence[str]]


def words() -> Words:
    """Returns all words that can be completed."""
    names = [name for name in (each.name for each in catalog.PROGRAMS) if name not in (*_WITHOUT_FLAGS, "completion")]
    definitions = {name: program.definition_of(name.replace("-", "_")) for name in names}
    short: list[str] = []
    for name, found in shipped.listing().items():
        short += [name, *(f"{name}:{variant}" for variant in found)]
    return Words(
        programs={each.name: each.doc for each in catalog.PROGRAMS},
        flags={
            name: {f"--{flag.name}{'' if flag.switch else '='}": flag.doc for flag in definition.flags}
            | {"--help": "how it is used"}
            | ({"--data=": "URI of the data"} if definition.takes_config else {})
            for name, definition in definitions.items()
        },
        configs={name: short for name, definition in definitions.items() if definition.takes_config},
        keys={f"--config.{name}=": _one_line(key) for name, key in registry.all_keys().items() if name != "task.name"},
        first={"completion": tuple(_SHELLS), "launch": [file.partition(".")[0] for file in launch.SCRIPTS]},
    )


def _one_line(key: Key) -> str:
    return f"{key.doc} ({key.allowed})"


def bash(found: Words) -> str:
    """Returns the script for bash 4 or newer."""
    cases = []
    for name in found.programs:
        choices = [*found.configs.get(name, ()), *found.flags.get(name, ()), *found.first.get(name, ())]
        cases.append(f"    {name}) choices='{' '.join(choices)}' ;;")
    takes_config = "|".join(found.configs)
    values = [f"--config={each}" for each in next(iter(found.configs.values()), ())]
    return f"""\
# Completion of jaxfm for bash, printed by `jaxfm completion bash`.
_jaxfm() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" current program="" choices before earlier
  current="${{line##*[[:space:]]}}"
  read -ra earlier <<< "${{line%"$current"}}"
  COMPREPLY=()
  ((COMP_CWORD > 1)) && program="${{COMP_WORDS[1]}}"
  case "$program" in
    '') choices='{" ".join(found.programs)} --help' ;;
{chr(10).join(cases)}
    *) return ;;
  esac
  # The value of a flag is a file, which readline completes.
  if [[ ${{earlier[-1]}} == --* && " $choices " == *" ${{earlier[-1]}}= "* ]]; then return; fi
  # Keys are many: they are offered once they are asked for.
  if [[ $program =~ ^({takes_config})$ ]]; then
    case "$current" in
      --config.*) choices='{" ".join(found.keys)}' ;;
      --config=*) choices='{" ".join(values)}' ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
  # Readline replaces only what follows the last of its separators.
  if [[ $current == *[:=]* ]]; then
    before="${{current%"${{current##*[:=]}}"}}"
    COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
  fi
  if [[ ${{COMPREPLY[0]-}} == *= ]]; then compopt -o nospace 2>/dev/null; fi
  return 0
}}
complete -o default -F _jaxfm jaxfm
"""


def zsh(found: Words) -> str:
    """Returns the script for zsh."""
    lines = ["#compdef jaxfm", "# Completion of jaxfm for zsh, printed by `jaxfm completion zsh`.", "_jaxfm() {"]
    lines += ["  local -a programs flags values", f"  programs=({_described(found.programs)})"]
    lines += ["  if ((CURRENT == 2)); then _describe -t programs program programs; return; fi", '  case "$words[2]" in']
    for name in found.programs:
        configs = [*found.configs.get(name, ()), *found.first.get(name, ())]
        lines.append(f"    {name})")
        lines.append(f"      values=({' '.join(map(shlex.quote, configs))})")
        lines.append(f"      flags=({_described(found.flags.get(name, {}))})")
        if name in found.configs:
            lines.append('      [[ $PREFIX == --config.* ]] && flags=("${keys[@]}")')
        lines.append("      ;;")
    lines += ["  esac", "  compadd -a values"]
    lines += ["  _describe -o -t flags flag flags -S ''", "  [[ $PREFIX == -* ]] || _files", "}"]
    lines.insert(4, f"  local -a keys=({_described(found.keys)})")
    return "\n".join([*lines, '_jaxfm "$@"', ""])


def fish(found: Words) -> str:
    """Returns the script for fish."""
    lines = ["# Completion of jaxfm for fish, printed by `jaxfm completion fish`."]
    for name, doc in found.programs.items():
        lines.append(f"complete -c jaxfm -n __fish_use_subcommand -f -a {name} -d {_fish(doc)}")
    for name in found.programs:
        when = f"-n '__fish_seen_subcommand_from {name}'"
        choices = [*found.configs.get(name, ()), *found.first.get(name, ())]
        if choices:
            lines.append(f"complete -c jaxfm {when} -f -a {_fish(' '.join(choices))}")
        keys = found.keys if name in found.configs else {}
        for flag, text in [*found.flags.get(name, {}).items(), *keys.items()]:
            needs = " -r" if flag.endswith("=") else ""
            lines.append(f"complete -c jaxfm {when} -l {flag[2:].rstrip('=')}{needs} -d {_fish(text)}")
    return "\n".join(lines) + "\n"


def _described(choices: Mapping[str, str]) -> str:
    """Returns words and what they are as zsh's `_describe` reads them."""
    return " ".join(shlex.quote(f"{word.replace(':', chr(92) + ':')}:{doc}") for word, doc in choices.items())


def _fish(text: str) -> str:
    """Returns a text in quotes for fish, whose only escapes in them are of the quote and the backslash."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Mapping[str, Callable[[Words], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def main(texts: Sequence[str]) -> None:
    """The program."""
    if len(texts) != 1:
        raise UserError(f"name one shell.\n{USAGE}")
    if texts[0] not in _SHELLS:
        raise UserError(f"there is no completion for {texts[0]!r}. {did_you_mean(texts[0], _SHELLS)}\n{USAGE}")
    print(_SHELLS[texts[0]](words()), end="")


def run() -> None:
    """Defines the flags and runs the program."""
    program.run(main, USAGE, takes_arguments=True)
