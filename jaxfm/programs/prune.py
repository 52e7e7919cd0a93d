"""Makes a run's model smaller: `python -m jaxfm.prune --workdir=runs/a --target=flops:0.5 --output=runs/a-half`.

Heads, neurons of the feed-forward parts and whole layers are dropped by their importance on training rows, and entries
of the vocabulary that no text uses; what is left is an ordinary model in a run directory again. Of the choices within
the target those that keep the most importance are scored on the validation split, and the best one is cut out. Where it
loses more than --max_loss nothing is written. --recover_epochs trains it further, in several --rounds if need be, by
the run's config and --config.KEY=VALUE. The same command again goes on where it was stopped. See docs/pruning.md.
"""

import ast
import dataclasses
import pathlib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.vocabulary_rows import check_words
from jaxfm.models.pruning import PARTS
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.writers import to_json
from jaxfm.planning.targets import FLOPS, LATENCY, SIZE, Target, read_targets
from jaxfm.programs import plugins, program, pruning_report
from jaxfm.programs.cut_vocabulary import ALL, TRAIN, check_keep_from, cut_vocabulary
from jaxfm.programs.export import MAX_LOSS
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.pruned_run import (
    Measured,
    PartChoice,
    compared,
    copy_run,
    cut_out,
    is_whole,
    measure_importance,
    new_output,
    open_whole,
    score_of,
    written,
)
from jaxfm.programs.train import train
from jaxfm.schema import flatten, to_dict
from jaxfm.tasks import registry
from jaxfm.training import cut_run
from jaxfm.training import workdir as workdirs
from jaxfm.training.cut_run import VALID, Start
from jaxfm.training.part_importance import RULES
from jaxfm.training.saved_run import SavedRun, open_run

USAGE = (
    "usage: python -m jaxfm.prune --workdir=DIR --output=DIR --target=flops:0.5[,size:10MB]\n"
    "  [--parts=heads,neurons,layers] [--vocabulary [--keep_from=train|all|FILE,...]]\n"
    "  [--recover_epochs=1 [--rounds=3] [--config.KEY=VALUE ...]] [--max_loss=0.01]\n"
    "  [--importance=fisher|taylor] [--rows=256] [--source=URI]"
)
TARGETS = (FLOPS, SIZE, LATENCY)
ROWS = 256
ROUNDS_FILE = "rounds.json"
_CONFIG_FLAG = re.compile(r"--?config\.([\w.]+)(=.*)?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for, checked."""

    targets: tuple[Target, ...]
    parts: tuple[str, ...]
    vocabulary: bool
    keep_from: tuple[str, ...]
    importance: str
    rows: int
    rounds: int
    recover_epochs: float
    overrides: Mapping[str, Any]
    max_loss: float
    source: str | None

    @property
    def in_rounds(self) -> bool:
        """Whether there are models between the first and the last."""
        return self.rounds > 1 or self.recover_epochs > 0

    def identity(self, run: SavedRun) -> dict[str, Any]:
        """Returns what must be the same for rounds to go on; JSON values."""
        values = dataclasses.asdict(self) | {"targets": list(map(str, self.targets)), "overrides": dict(self.overrides)}
        del values["max_loss"]  # which only decides about what has come of them
        return to_json({"workdir": str(run.workdir.resolve()), **values})


def prune(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    target: str | Sequence[str] = (),
    *,
    parts: Sequence[str] = PARTS,
    vocabulary: bool = False,
    keep_from: Sequence[str] = (TRAIN,),
    recover_epochs: float = 0.0,
    rounds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    max_loss: float = MAX_LOSS,
    importance: str = "fisher",
    rows: int = ROWS,
    source: str | None = None,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Writes a run with a smaller model, whole or not at all. Returns its path.

    Args:
      workdir: a run directory.
      output: the directory to write.
      target: what the model may have of the first one's: "flops:0.5", "size:10MB" or "size:0.5", "latency:0.5"; several
        hold together. It may be missing where only the vocabulary is cut.
      parts: what may be dropped: "heads", "neurons", "layers".
      vocabulary: whether entries of the vocabulary that no text uses are dropped too.
      keep_from: whose entries are kept: "train", "all" (every split of the run), files of texts.
      recover_epochs: how long the smaller model is trained after each round; 0: not at all.
      rounds: in how many steps the target is reached.
      overrides: values of single keys of the config of that training, by their dotted names.
      max_loss: what may be lost on the validation split, in units of the metric that chose the checkpoint.
      importance: "fisher" or "taylor"; see `jaxfm.training.part_importance`.
      rows: of the training split, on which importance is measured.
      source: data in place of the run's own, with training and validation splits.
      progress: where to show how far it is.

    Raises:
      UserError: a run that cannot be pruned, a target that nothing is within, a tokenizer that cannot be cut, a word
        that is not known, an output that is there already, or a loss above `max_loss`.
    """
    targets = read_targets([target] if isinstance(target, str) else target, TARGETS)
    asked = _Asked(
        targets, tuple(parts), vocabulary, tuple(keep_from), importance, rows, rounds, recover_epochs,
        dict(overrides or {}), max_loss, source,
    )  # fmt: skip
    _check(asked)
    folder = new_output(output)
    run = open_run(files.user_path(workdir, "--workdir"))
    with (
        libraries_quieted(),
        progress or Progress(None) as shown,
        files.held(files.lock_beside(folder), f"--output={folder}"),
    ):
        new_output(folder)  # another process may have been here
        whole = open_whole(run, source)
        if vocabulary:
            check_words(whole.first.params, run.workdir)
        base = Measured(whole, shown)
        if asked.in_rounds:
            _prune_in_rounds(run, base, asked, folder, shown)
        else:
            _prune_once(run, base, asked, folder, shown)
    return folder


def _check(asked: _Asked) -> None:
    for flag, words, known in (
        ("parts", asked.parts, PARTS),
        ("importance", (asked.importance,), tuple(RULES)),
    ):
        for word in words:
            if word not in known:
                raise UserError(f"--{flag}={','.join(words)}: {word!r}: {did_you_mean(word, known)}")
    if not asked.targets and not asked.vocabulary:
        raise UserError(f"--target is missing: what the smaller model may have of the first one's.\n{USAGE}")
    if asked.targets and not asked.parts:
        raise UserError("--parts: is empty, so that nothing can be dropped. Name some of heads, neurons, layers.")
    if not asked.max_loss >= 0:
        raise UserError(
            f"--max_loss={asked.max_loss}: must be 0 or more, in units of the run's metric (0.01: one point)."
        )
    if asked.rounds < 1 or asked.rows < 1:
        flag, value = ("rounds", asked.rounds) if asked.rounds < 1 else ("rows", asked.rows)
        raise UserError(f"--{flag}={value}: must be at least 1.")
    if not 0 <= asked.recover_epochs < 1e6:
        raise UserError(f"--recover_epochs={asked.recover_epochs}: must be 0 or more.")
    if asked.overrides and not asked.recover_epochs:
        key = next(iter(asked.overrides))
        raise UserError(f"--config.{key}: is of the training after pruning; give --recover_epochs=1 too.")
    if asked.rounds > 1 and not asked.targets:
        raise UserError(
            f"--rounds={asked.rounds}: are steps to a target; the vocabulary is cut at once. Give --target."
        )
    if not asked.vocabulary and asked.keep_from != (TRAIN,):
        raise UserError(f"--keep_from={','.join(asked.keep_from)}: is of --vocabulary; give that too.")
    check_keep_from(asked.keep_from)


def _prune_once(run: SavedRun, base: Measured, asked: _Asked, folder: pathlib.Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        begun, facts = _pruned(run, base, base.whole, asked, asked.targets, pathlib.Path(temporary), progress)
        outputs = begun.setup.evaluate(begun.params, begun.task.datasets[VALID])
        facts["gate"] = _gate(base, score_of(begun, outputs), asked, progress, "")
        with written(folder) as made:
            report = cut_run.write(begun, made, progress, outputs)
            _write_report(made, base, asked, facts, report, progress)


def _prune_in_rounds(run: SavedRun, base: Measured, asked: _Asked, folder: pathlib.Path, progress: Progress) -> None:
    home = folder.with_name(f"{folder.name}-rounds")
    identity = asked.identity(run)
    if (home / ROUNDS_FILE).is_file():
        if files.read_object(home / ROUNDS_FILE) != identity:
            raise UserError(
                f"--output={folder}: {home} holds rounds of another command ({_difference(home, identity)}). Name "
                "another output, or remove that folder."
            )
    elif home.exists() and any(home.iterdir()):
        raise UserError(f"--output={folder}: {home}, where rounds are kept, holds something else. Name another output.")
    home.mkdir(parents=True, exist_ok=True)
    files.write_json(home / ROUNDS_FILE, identity)
    rounds: list[dict[str, Any]] = []
    at, facts, report = run, dict[str, Any](), dict[str, Any]()
    for number in range(1, asked.rounds + 1):
        targets = tuple(_of_round(each, base, number / asked.rounds) for each in asked.targets)
        pruned = home / f"round_{number}_pruned"
        if not is_whole(pruned):
            progress.say(f"round {number} of {asked.rounds}: {', '.join(map(str, targets))}")
            _write_round(at, base, asked, targets, pruned, progress, first=number == 1)
        found = files.read_object(pruned / pruning_report.JSON_FILE)
        facts = found if number == 1 else {**facts, **found, "before": facts["before"]}
        at = open_run(pruned)
        entry = {"targets": list(map(str, targets)), "pruned": facts["score"]}
        if asked.recover_epochs:
            report = train(_config_to_recover(at, asked), home / f"round_{number}")
            at = open_run(home / f"round_{number}")
            entry["recovered"] = report["splits"][VALID][base.metric]
        rounds.append(entry)
    if not asked.recover_epochs:
        report = workdirs.read_report(at.workdir)
    facts |= {"rounds": rounds, "recover_epochs": asked.recover_epochs}
    score = float(report["splits"][VALID][base.metric])
    facts["gate"] = _gate(
        base,
        score,
        asked,
        progress,
        f" The rounds are kept in {home}: the same command with a larger --max_loss writes what has come of them.",
    )
    with written(folder) as made:
        copy_run(at.workdir, made)
        _write_report(made, base, asked, facts, report, progress)
    progress.say(f"the models of the rounds are in {home}; remove it when you need them no more")


def _write_round(
    at: SavedRun,
    base: Measured,
    asked: _Asked,
    targets: Sequence[Target],
    folder: pathlib.Path,
    progress: Progress,
    *,
    first: bool,
) -> None:
    """Prunes the model that the round before has left, and writes it as a run."""
    asked = asked if first else dataclasses.replace(asked, vocabulary=False)
    whole = base.whole if first else open_whole(at, asked.source)
    with tempfile.TemporaryDirectory() as temporary:
        begun, facts = _pruned(at, base, whole, asked, targets, pathlib.Path(temporary), progress)
        with written(folder) as made:
            report = cut_run.write(begun, made, progress)
            facts["score"] = report["splits"][VALID][base.metric]
            files.write_json(made / pruning_report.JSON_FILE, to_json(facts))


def _pruned(
    at: SavedRun,
    base: Measured,
    whole: Start,
    asked: _Asked,
    targets: Sequence[Target],
    temporary: pathlib.Path,
    progress: Progress,
) -> tuple[Start, dict[str, Any]]:
    """Returns the smaller model of a run, and what was done, JSON values."""
    encoder = whole.first.encoder
    facts: dict[str, Any] = {"before": _shape(encoder)}
    if asked.vocabulary:
        found = cut_vocabulary(at, whole, base.outputs, asked.keep_from, temporary / "tokenizer")
        whole, facts["vocabulary"] = found.start, found.facts
        progress.say(
            f"vocabulary: {found.facts['after']:,} of {found.facts['before']:,} entries are kept, those of "
            f"{', '.join(asked.keep_from)}, special ones, and single characters"
        )
    if targets:
        importance = measure_importance(whole, rule=asked.importance, rows=asked.rows, progress=progress)
        search = PartChoice(whole, base, importance, asked.parts)
        choice = search.best(targets, progress)
        begun = cut_out(whole, search, choice.kept, at.workdir)
        facts["choice"] = choice.to_json(whole.first.encoder)
        facts["scored"] = [each.to_json(whole.first.encoder) for each in search.scored]
        facts["importance"] = {
            name: values.tolist() for name, values in importance._asdict().items() if name == "heads"
        }
    else:
        begun = whole
    facts["after"] = _shape(begun.first.encoder)
    return begun, facts


def _shape(encoder: Any) -> dict[str, int]:
    names = ("num_layers", "num_heads", "ffn_size", "vocab_size")
    return {name: getattr(encoder, name) for name in names}


def _of_round(target: Target, base: Measured, progress: float) -> Target:
    """Returns the target of a round: shares fall by the same factor in each."""
    share = target.share_of(base.size if target.name == SIZE else 1.0)
    return target if progress == 1 else Target(target.name, min(share, 1.0) ** progress)


def _config_to_recover(run: SavedRun, asked: _Asked) -> Any:
    changes = {"train.epochs": asked.recover_epochs, "train.steps": 0, "train.min_steps": 0}
    config = cut_run.config_from(run.config, run.workdir)
    return resolve_config(config, {**changes, **asked.overrides})


def _gate(base: Measured, score: float, asked: _Asked, progress: Progress, more: str) -> dict[str, Any]:
    """Returns the scores beside each other; UserError where too much is lost."""
    lost = base.lost(score)
    words = (
        f"{base.metric} on {VALID} is {score:.4f}, and {base.score:.4f} in the first model: "
        f"{'loses' if lost >= 0 else 'gains'} {abs(lost):.4f}, at most {asked.max_loss:g} may be lost"
    )
    progress.say(words)
    if not lost <= asked.max_loss:
        train_more = f"--recover_epochs={'1' if not asked.recover_epochs else f'{2 * asked.recover_epochs:g}'}"
        raise UserError(
            f"--max_loss={asked.max_loss:g}: refused, no run is written: {words}. Train the smaller model further "
            f"({train_more}), take a larger --target, or accept more with --max_loss.{more}"
        )
    return {
        "split": VALID,
        "metric": base.metric,
        "before": base.score,
        "after": score,
        "lost": lost,
        "max_loss": asked.max_loss,
    }


def _write_report(
    folder: pathlib.Path,
    base: Measured,
    asked: _Asked,
    facts: dict[str, Any],
    report: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Measures the run that was written beside the first one, and writes what there is to say of it."""
    measured = compared(base, open_run(folder), report, progress)
    found = {
        "version": 1,
        "made_of": {"workdir": base.whole.config.model.init.removeprefix("run:")},
        "targets": list(map(str, asked.targets)),
        "parts": list(asked.parts) if asked.targets else [],
        **facts,
        **measured,
    }
    pruning_report.write(folder, found, progress)
    named = {name: found[name] for name in ("targets", "before", "after", "costs", "gate", "made_of")}
    files.write_json(folder / JSON_FILE, to_json({**report, "pruning": named}))


def _difference(home: pathlib.Path, identity: Mapping[str, Any]) -> str:
    before = files.read_object(home / ROUNDS_FILE)
    names = [name for name in identity if before.get(name) != identity[name]]
    return ", ".join(f"{name} {before.get(name)!r}" for name in names)


def define_config_flags() -> None:
    """Defines --config.KEY for the keys that the command line names, for `given_keys`."""
    for word in sys.argv[1:]:
        match = _CONFIG_FLAG.fullmatch(word)
        if match and f"config.{match[1]}" not in flags.FLAGS:
            flags.DEFINE_string(f"config.{match[1]}", None, "A key of the config of the training after pruning.")


def given_keys(workdir: str) -> dict[str, Any]:
    """Returns the keys of `define_config_flags` with their values, of the kinds that the run's config has there.

    Raises UserError for an unknown key.
    """
    names = [name.removeprefix("config.") for name in flags.FLAGS if name.startswith("config.")]
    if not names:
        return {}
    config = workdirs.read_config(files.user_path(workdir, "--workdir"))
    known, found = flatten(to_dict(config)), {}
    for name in names:
        registry.check_key(name)
        text = flags.FLAGS[f"config.{name}"].value
        if text is not None:
            found[name] = text if isinstance(known.get(name), str) else _value(text)
    return found


def _value(text: str) -> Any:
    """Returns a value as Python writes it; any other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    output = prune(
        values.workdir,
        values.output,
        values.target,
        parts=values.parts,
        vocabulary=values.vocabulary,
        keep_from=values.keep_from,
        recover_epochs=values.recover_epochs,
        rounds=values.rounds,
        overrides=given_keys(values.workdir),
        max_loss=values.max_loss,
        importance=values.importance,
        rows=values.rows,
        source=values.source,
    )
    print(f"written: {output}; report: {output / pruning_report.MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    define_config_flags()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("output", None, "The directory to write.")
    flags.DEFINE_list("target", [], "What the model may have of the first one's: flops:0.5, size:10MB, latency:0.5.")
    flags.DEFINE_list("parts", list(PARTS), "What may be dropped: heads, neurons, layers.")
    flags.DEFINE_bool("vocabulary", False, "Whether entries of the vocabulary that no text uses are dropped too.")
    flags.DEFINE_list(
        "keep_from", [TRAIN], f"Whose entries are kept: {TRAIN}, {ALL} (every split of the run), files of texts."
    )
    flags.DEFINE_float("recover_epochs", 0.0, "How long the smaller model is trained after each round; 0: not at all.")
    flags.DEFINE_integer("rounds", 1, "In how many steps the target is reached.")
    flags.DEFINE_float(
        "max_loss", MAX_LOSS, "Most that may be lost on the validation split, in units of the run's metric."
    )
    flags.DEFINE_string("importance", "fisher", "fisher: by squared derivatives of the loss; taylor: by absolute ones.")
    flags.DEFINE_integer("rows", ROWS, "Rows of the training split on which importance is measured.")
    flags.DEFINE_string("source", None, "Data with training and validation splits; the run's own if not given.")
    program.run(main, USAGE)
