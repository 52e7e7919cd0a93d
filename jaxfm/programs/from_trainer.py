"""Shows a script for transformers' Trainer as a command of jaxfm: `python -m jaxfm.from_trainer train.py`.

It reads a script, which is never run, or a JSON or YAML file of TrainingArguments, and says of each argument what
became of it. docs/from_transformers.md has the table of all arguments.
"""

import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table
from jaxfm.programs import program, trainer_conversion, trainer_script, usage
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.trainer_arguments import ARGUMENTS, OTHERS, RENAMED
from jaxfm.programs.trainer_conversion import Outcome
from jaxfm.schema import flatten, to_dict

USAGE = (
    "usage: python -m jaxfm.from_trainer (SCRIPT.py | ARGUMENTS.json | ARGUMENTS.yaml) [--base=ner:files]\n"
    "         [--devices=1] [--line=N]"
)
BASES = ("ner:files", "classification:files", "mlm:continue")
_MASKED = "mlm"
_SHOWN = 40  # characters of a value


@dataclasses.dataclass(frozen=True)
class Converted:
    """A script as a config of jaxfm.

    Attributes:
      path: of the script or file.
      found: what it says.
      base: name of the config to start from.
      outcomes: what became of each argument of TrainingArguments, by its name of today.
      keys: what to set.
      defaults: what to set as well for the Trainer's defaults, where jaxfm's are others.
    """

    path: pathlib.Path
    found: trainer_script.Found
    base: str
    outcomes: Mapping[str, Outcome]
    keys: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def workdir(self) -> str:
        """The run directory that the script's output_dir suggests."""
        given = self.found.arguments.get("output_dir")
        return given if isinstance(given, str) and given else "runs/mine"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Returns argument, value, keys and remark of each; of a file, of those that are not at their default."""
        written = {trainer_conversion.todays_name(name): name for name in self.found.arguments}
        rows = []
        for name, outcome in self.outcomes.items():
            value = self.found.arguments[written[name]]
            if not self.found.lines and not outcome.keys and value == ARGUMENTS[name].default:
                continue
            shown = "..." if "token" in name else _shortened(repr(value))  # no secret on a screen
            became = ", ".join(f"{key}={_text(each)}" for key, each in outcome.keys.items())
            rows.append((written[name], shown, became, _plain(outcome.remark)))
        for key, (value, said) in self.found.keys.items():
            rows.append((said, _shortened(repr(value)), f"{key}={_text(value)}", ""))
        return rows

    def table(self) -> Table:
        """Returns `rows` in two columns, which fit a terminal."""
        rows = []
        for name, value, keys, remark in self.rows():
            written = f"{name}={value}" if name in self.found.arguments else name
            rows.append((written, f"{keys} ({remark})" if keys and remark else keys or remark))
        return Table(f"{self.found.where}, on top of {self.base}", ("the script", "jaxfm"), rows)

    def notes(self) -> list[str]:
        """Returns lines about what could not be read, what has no key, and what the script does not say."""
        lines = [
            f"{self.path}:{each.line}: {name} is not a literal value ({_shortened(each.text)}): set {_keys_of(name)}."
            for name, each in self.found.unread.items()
        ]
        said = {**OTHERS["The call of Trainer"], **OTHERS["Other calls"]}
        lines += [f"{self.path}:{line}: {name}: {_plain(said[name])}." for name, line in self.found.others.items()]
        if "model.init" not in self.keys:
            lines.append(
                "The weights are not named by a literal value: add --config.model.init=hf:OWNER/NAME (or dir:)."
            )
        if "data.source" not in self.keys:
            lines.append("The data: add --config.data.source=csv:FOLDER (conll:, jsonl:, parquet:, text:, hf:, tfds:).")
        return lines

    def command(self) -> str:
        """Returns the command line, one flag a line."""
        words = [f"--workdir={self.workdir}", *_flags(self.keys)]
        return " \\\n    ".join([f"python -m jaxfm.train {shlex.quote(self.base)}", *map(shlex.quote, words)])

    def call(self) -> str:
        """Returns the same as a call in Python, with the data in memory."""
        keys = {key: value for key, value in self.keys.items() if key != "data.source"}
        return f"jaxfm.train({self.base!r}, {self.workdir!r}, data=..., overrides={keys!r})"


def convert(path: pathlib.Path, base: str = "", *, devices: int = 1, line: int | None = None) -> Converted:
    """Returns a script, or a file of arguments, as a config of jaxfm.

    Args:
      path: see `trainer_script.read`.
      base: name of the config to start from; empty: as the class of the script's model says.
      devices: number of devices that the script ran on.
      line: see `trainer_script.read`.

    Raises:
      UserError: as `trainer_script.read`; an argument that there never was; no `base` where it is needed; values that
        jaxfm refuses.
    """
    found = trainer_script.read(path, line)
    base = base or found.config
    if not base:
        raise UserError(
            f"{path}: does not say what is trained (AutoModelForTokenClassification.from_pretrained or the like). Name "
            f"the config to start from: --base={BASES[0]}, --base={BASES[1]} or --base={BASES[2]}."
        )
    standard = flatten(to_dict(resolve_config(base)))
    try:
        given = {trainer_conversion.todays_name(name): value for name, value in found.arguments.items()}
        return _converted(path, found, base, given, standard, devices)
    except UserError as error:
        raise UserError(f"{found.where}: {error}") from error


def _converted(
    path: pathlib.Path,
    found: trainer_script.Found,
    base: str,
    given: Mapping[str, Any],
    standard: Mapping[str, Any],
    devices: int,
) -> Converted:
    """Returns the arguments `given`, under their names of today, on top of a config with the keys `standard`."""
    masked = base.startswith(_MASKED)
    outcomes = trainer_conversion.convert(given, devices=devices, masked=masked)
    keys = trainer_conversion.overrides(outcomes) | {key: value for key, (value, _) in found.keys.items()}
    # What the script leaves to the Trainer's defaults, where jaxfm's are others.
    named = {*given, *(trainer_conversion.todays_name(name) for name in found.unread if not name.startswith("**"))}
    left = {name: ARGUMENTS[name].default for name in trainer_conversion.MATTER if name not in named}
    if "warmup_ratio" in named:
        left.pop("warmup_steps", None)
    whole = trainer_conversion.overrides(trainer_conversion.convert({**left, **given}, devices=devices, masked=masked))
    whole |= trainer_conversion.TRAINER_LACKS
    chosen = flatten(to_dict(resolve_config(base, {**whole, **keys})))  # also says what jaxfm refuses
    defaults = {key: value for key, value in whole.items() if key not in keys and standard[key] != chosen[key]}
    return Converted(path, found, base, outcomes, keys, defaults)


def _keys_of(name: str) -> str:
    """Returns what a person sets for an argument that could not be read."""
    argument = ARGUMENTS.get(RENAMED.get(name, name))
    if argument is None:
        return "the keys of what it holds"
    return " and ".join(argument.keys) or f"nothing ({_plain(argument.remark)})"


def _plain(text: str) -> str:
    """Returns a remark of the page without Markdown."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def _flags(keys: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={_text(value)}" for key, value in keys.items()]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def main(words: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if len(words) != 1:
        raise UserError(f"give one script or file of arguments.\n{USAGE}")
    converted = convert(files.user_path(words[0], "the script"), values.base, devices=values.devices, line=values.line)
    progress = Progress(0)
    progress.table(converted.table())
    for line in converted.notes():
        progress.say(line)
    if converted.defaults:
        progress.say("\nThe Trainer's defaults that are others than jaxfm's; add them for the same training:\n")
        progress.say("    " + " \\\n    ".join(map(shlex.quote, _flags(converted.defaults))))
    progress.say(f"\nThe command:\n\n{usage.as_called(converted.command(), sys.argv[0])}")
    progress.say(f"\nIn Python, with the data in memory:\n\n{converted.call()}")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("base", "", f"The config to start from: {', '.join(BASES)}; empty: as the script's model says.")
    flags.DEFINE_integer("devices", 1, "Devices that the script runs on: a batch is of all of them.", lower_bound=1)
    flags.DEFINE_integer("line", None, "Line of the TrainingArguments to read, where a script has several.")
    program.run(main, USAGE, takes_arguments=True)
