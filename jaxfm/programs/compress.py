"""Finds a smaller form of a run: `python -m jaxfm.compress --workdir=runs/a --target=latency:0.5 --output=runs/b`.

Methods are tried in the order of what they cost: the vocabulary cut to what the training texts use; weights in 8 and 4
bits; heads, neurons and layers pruned, alone and rounded; and with --recover_epochs the same trained further. It ends
with the methods by which the target is reached (--all tries every one). Each form is scored on the validation split and
measured: bytes on the disk, and the time of a forward pass, in turns with the first model's. The best form within the
target becomes the run in --output; where none is, nothing is written there and the nearest is named. All forms, the
table and the picture are in OUTPUT-candidates. The same command again goes on where it was stopped.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.compress_plots import plot_forms
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.planning.targets import LATENCY, LOSS, SIZE, Target, read_targets
from jaxfm.programs import compress_forms, plugins, program
from jaxfm.programs.compress_forms import Tried, best_of, made, nearest, numbers_of_front, size_on_disk, tried
from jaxfm.programs.cut_vocabulary import TRAIN, check_keep_from
from jaxfm.programs.prune import define_config_flags, given_keys, prune
from jaxfm.programs.pruned_run import Measured, copy_run, new_output, open_whole, score_of, written
from jaxfm.programs.quantise import quantise
from jaxfm.training.saved_run import SavedRun, open_run

USAGE = (
    "usage: python -m jaxfm.compress --workdir=DIR --output=DIR\n"
    "  --target=latency:0.5|size:10MB|loss:0.005[,...]\n"
    "  [--methods=vocabulary,quantise,prune] [--budgets=0.75,0.5,0.35] [--all]\n"
    "  [--recover_epochs=1 [--rounds=1] [--config.KEY=VALUE ...]]\n"
    "  [--keep_from=train|all|FILE,...] [--source=URI]"
)
TARGETS = (LATENCY, SIZE, LOSS)
METHODS = ("vocabulary", "quantise", "prune")
BUDGETS = (0.75, 0.5, 0.35)
MARKDOWN_FILE, JSON_FILE, PLOT_FILE = "compress.md", "compress.json", "pareto.png"
_SETTINGS_FILE, _FIRST = "settings.json", "first model"
_ANY = 1e9  # a loss that every form is within: the gate is the target
# What the vocabulary may cost for the other methods to start from its form, where no loss is asked for.
_VOCABULARY_LOSS = 0.005
_ROUNDINGS: Mapping[str, Mapping[str, Any]] = {
    "weights8": {"method": "weights"},
    "weights4": {"method": "weights", "bits": 4},
    "dynamic": {"method": "dynamic"},
    "static": {"method": "static"},
}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for, checked."""

    targets: tuple[Target, ...]
    methods: tuple[str, ...]
    budgets: tuple[float, ...]
    every: bool
    recover_epochs: float
    rounds: int
    overrides: Mapping[str, Any]
    keep_from: tuple[str, ...]
    source: str | None

    def settings(self, run: SavedRun) -> dict[str, Any]:
        """Returns what forms that are there must have been made with."""
        names = ("recover_epochs", "rounds", "keep_from", "source")
        values = {name: getattr(self, name) for name in names} | {"overrides": dict(self.overrides)}
        return {"workdir": str(run.workdir.resolve()), **values, "keep_from": list(self.keep_from)}


def compress(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    target: str | Sequence[str],
    *,
    methods: Sequence[str] = METHODS,
    budgets: Sequence[float] = BUDGETS,
    every: bool = False,
    recover_epochs: float = 0.0,
    rounds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    keep_from: Sequence[str] = (TRAIN,),
    source: str | None = None,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Writes the best smaller form of a run within a target, whole or not at all. Returns its path.

    Args:
      workdir: a run directory, in floats.
      output: the directory to write; OUTPUT-candidates has all forms.
      target: "latency:0.5" and "size:0.5", shares of the first model's; "size:10MB"; "loss:0.005", in units of the
        run's metric on the validation split. Several hold together.
      methods: of "vocabulary", "quantise", "prune".
      budgets: shares of the operations that pruned forms have.
      every: whether methods are tried after those that reach the target, too.
      recover_epochs: how long pruned forms are trained, where nothing else reaches the target; 0: not at all.
      rounds: in how many steps these are pruned.
      overrides: values of single keys of the config of that training, by their dotted names.
      keep_from: as of `jaxfm.prune`.
      source: data in place of the run's own, with training and validation splits.
      progress: where to show how far it is.

    Raises:
      UserError: a run that cannot be made smaller, a word that is not known, an output that is there already, or a
        target that no form reaches.
    """
    targets = read_targets([target] if isinstance(target, str) else target, TARGETS)
    asked = _Asked(
        targets, tuple(methods), tuple(budgets), every, recover_epochs, rounds, dict(overrides or {}),
        tuple(keep_from), source,
    )  # fmt: skip
    _check(asked)
    folder = new_output(output)
    run = open_run(files.user_path(workdir, "--workdir"))
    home = folder.with_name(f"{folder.name}-candidates")
    with libraries_quieted(), progress or Progress(None) as shown:
        with files.held(files.lock_beside(folder), f"--output={folder}"):
            new_output(folder)  # another process may have been here
            _open_home(home, asked.settings(run), folder)
            _compress(run, asked, home, folder, shown)
    return folder


def _check(asked: _Asked) -> None:
    if not asked.targets:
        raise UserError(f"--target is missing: what the smaller form is to come to.\n{USAGE}")
    for word in asked.methods:
        if word not in METHODS:
            raise UserError(f"--methods={','.join(asked.methods)}: {word!r}: {did_you_mean(word, METHODS)}")
    if not asked.methods:
        raise UserError(f"--methods: is empty; name some of {', '.join(METHODS)}.")
    for budget in asked.budgets:
        if not 0 < budget < 1:
            raise UserError(f"--budgets: {budget:g} must be a share of the operations: above 0 and below 1.")
    if asked.rounds < 1:
        raise UserError(f"--rounds={asked.rounds}: must be at least 1.")
    if not 0 <= asked.recover_epochs < 1e6:
        raise UserError(f"--recover_epochs={asked.recover_epochs}: must be 0 or more.")
    if (asked.overrides or asked.rounds > 1) and not asked.recover_epochs:
        flag = f"--config.{next(iter(asked.overrides))}" if asked.overrides else f"--rounds={asked.rounds}"
        raise UserError(f"{flag}: is of the training after pruning; give --recover_epochs=1 too.")
    check_keep_from(asked.keep_from)


def _open_home(home: pathlib.Path, settings: Mapping[str, Any], folder: pathlib.Path) -> None:
    path = home / _SETTINGS_FILE
    if path.is_file():
        before = files.read_object(path)
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise UserError(
                f"--output={folder}: {home} holds forms of another command "
                f"({', '.join(f'{name} {before.get(name)!r}' for name in changed)}). Name another output, or remove it."
            )
    elif home.exists() and any(home.iterdir()):
        raise UserError(f"--output={folder}: {home}, where forms are kept, holds something else. Name another output.")
    home.mkdir(parents=True, exist_ok=True)
    files.write_json(path, dict(settings))


class _Forms:
    """The forms of a run that are made, one after another.

    Attributes:
      base: the first model.
      found: it and the forms that were made, in their order.
      skipped: form -> why it cannot be made.
    """

    def __init__(self, run: SavedRun, asked: _Asked, home: pathlib.Path, progress: Progress):
        """Scores and measures the first model."""
        self._run, self._asked, self._home, self._progress = run, asked, home, progress
        self.base = Measured(open_whole(run, asked.source), progress)
        whole = self.base.whole
        test = whole.task.datasets.get("test")
        score = None if test is None else score_of(whole, whole.setup.evaluate(whole.params, test), "test")
        self._size = size_on_disk(run)
        seconds = compress_forms.latency.in_turns({"first": self.base.forward})["first"]
        self.found = [Tried(_FIRST, "", self.base.score, 0.0, score, self._size, 1.0, seconds, 1.0)]
        self.skipped: dict[str, str] = {}

    def folder(self, name: str) -> pathlib.Path:
        """Returns the directory of a form; that of the first model is the run's."""
        return self._run.workdir if name == _FIRST else self._home / name

    def add(self, name: str, made_of: str, make: Callable[[pathlib.Path, pathlib.Path], Any]) -> Tried | None:
        """Makes a form of another one, and measures it; None where it cannot be made."""
        folder = self.folder(name)
        self._progress.say(f"trying {name}")
        if reason := made(folder, lambda: make(self.folder(made_of), folder)):
            self.skipped[name] = reason
            self._progress.say(f"{name}: not possible: {reason}")
            return None
        form = tried(name, made_of, folder, self.base, self._size)
        self.found.append(form)
        self._progress.say(
            f"{name}: {self.base.metric} {form.score:.4f} (first model {self.base.score:.4f}), "
            f"size {form.size_share:.1%}, latency {form.latency_share:.1%}"
        )
        return form

    def is_enough(self) -> bool:
        """Whether a form reaches the target, so that no further method is tried."""
        return not self._asked.every and any(each.reaches(self._asked.targets) for each in self.found[1:])


def _stages(forms: _Forms, asked: _Asked) -> Iterator[None]:
    """Makes the forms of one method after another, the cheapest first."""
    start = _FIRST
    common = {"max_loss": _ANY, "source": asked.source, "progress": Progress(None, quiet=True)}
    if "vocabulary" in asked.methods:
        cut = forms.add(
            "vocabulary", _FIRST,
            lambda before, after: prune(before, after, vocabulary=True, keep_from=asked.keep_from, **common),
        )  # fmt: skip
        allowed = next((each.limit for each in asked.targets if each.name == LOSS), _VOCABULARY_LOSS)
        start = cut.name if cut is not None and cut.lost <= allowed else start
        yield
    roundings: list[Tried] = []
    if "quantise" in asked.methods:
        for name in _ROUNDINGS:
            form = _rounded(forms, start, name, common)
            roundings += [] if form is None else [form]
        yield
    if "prune" not in asked.methods:
        return
    # Pruned forms are rounded in the one way that has cost the least score for what it saves.
    rounding = min(roundings, key=lambda each: (each.excess(asked.targets), each.lost, each.cost), default=None)
    for recover in (False, True) if asked.recover_epochs else (False,):
        more = {"recover_epochs": asked.recover_epochs, "rounds": asked.rounds, "overrides": asked.overrides}
        for name, target in _pruned_targets(asked):
            name = f"{name}-trained" if recover else name
            options = {"target": target, **common, **(more if recover else {})}
            form = forms.add(name, start, lambda before, after, options=options: prune(before, after, **options))
            if form is not None and rounding is not None:
                _rounded(forms, name, rounding.name.rpartition("+")[2], common)
        yield


def _rounded(forms: _Forms, start: str, name: str, common: Mapping[str, Any]) -> Tried | None:
    own = name if start == _FIRST else f"{start}+{name}"
    options = {**_ROUNDINGS[name], **common, "sensitivity": False}
    return forms.add(own, start, lambda before, after: quantise(before, after, **options))


def _pruned_targets(asked: _Asked) -> list[tuple[str, str]]:
    """Returns names and targets of pruned forms: budgets of operations, and what is asked for itself."""
    found = [(f"pruned-{100 * budget:g}", f"flops:{budget:g}") for budget in asked.budgets]
    own = [each for each in asked.targets if each.name in (LATENCY, SIZE)]
    return [*found, *((f"pruned-{str(each).replace(':', '-')}", str(each)) for each in own)]


def _compress(run: SavedRun, asked: _Asked, home: pathlib.Path, folder: pathlib.Path, progress: Progress) -> None:
    forms = _Forms(run, asked, home, progress)
    for _ in _stages(forms, asked):
        if forms.is_enough():
            break
    best = best_of(forms.found[1:], asked.targets)
    facts = _facts(run, forms, asked, best)
    _write(home, facts, forms, best, progress)
    if best is None:
        if len(forms.found) == 1:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in forms.skipped.items())
            raise UserError(f"--workdir={run.workdir}: no smaller form can be made. {reasons}")
        shown = ",".join(map(str, asked.targets))
        advice = "Ask for less"
        if "prune" in asked.methods and not asked.recover_epochs:
            advice = "Train pruned forms further with --recover_epochs=1, or ask for less"
        raise UserError(
            f"--target={shown}: no form reaches it, and no run is written; {nearest(forms.found[1:], asked.targets)}. "
            f"{advice}. All forms: {home / MARKDOWN_FILE}"
        )
    with written(folder) as target:
        copy_run(forms.folder(best.name), target)
        _write(target, facts, forms, best, None)
    progress.headline(
        f"{best.name}: {forms.base.metric} {best.score:.4f} on valid ({forms.base.score:.4f} before), "
        f"{best.size_share:.1%} of the size, {best.latency_share:.1%} of the time"
    )


def _facts(run: SavedRun, forms: _Forms, asked: _Asked, best: Tried | None) -> dict[str, Any]:
    front = numbers_of_front(forms.found, forms.base.more_is_better)
    return {
        "version": 1,
        "made_of": {"workdir": str(run.workdir)},
        "metric": forms.base.metric,
        "more_is_better": forms.base.more_is_better,
        "targets": list(map(str, asked.targets)),
        "chosen": None if best is None else best.name,
        "forms": [
            compress_forms.to_json(each, asked.targets, number in front) for number, each in enumerate(forms.found)
        ],
        "skipped": forms.skipped,
    }


def _write(
    folder: pathlib.Path, facts: Mapping[str, Any], forms: _Forms, best: Tried | None, progress: Progress | None
) -> None:
    """Writes compress.md, compress.json and the picture; shows the table."""
    found = _table(facts)
    chosen = "" if best is None else best.name
    front = {number for number, each in enumerate(facts["forms"]) if each["on_front"]}
    plot_forms(compress_forms.drawn(forms.found, front, chosen), folder / PLOT_FILE, metric=facts["metric"])
    parts = [f"## {found.title}", to_markdown(found).strip(), f"![forms]({PLOT_FILE})"]
    parts += [f"- {name}: not possible: {reason}" for name, reason in facts["skipped"].items()]
    files.write_text(folder / MARKDOWN_FILE, "\n\n".join(parts) + "\n")
    files.write_json(folder / JSON_FILE, dict(facts))
    if progress is not None:
        progress.table(found)


def _table(facts: Mapping[str, Any]) -> Table:
    metric = facts["metric"]
    rows = []
    for number, each in enumerate(facts["forms"]):
        mark = "written" if each["name"] == facts["chosen"] else "yes" if each["reaches"] and number else ""
        rows.append(
            (
                number, each["name"], each["score"], each["test"], each["size"] / 1e6, each["size_share"],
                1000 * each["seconds"], each["latency_share"], "yes" if each["on_front"] else "", mark,
            )
        )  # fmt: skip
    columns = (
        "", "form", f"{metric} on valid", "on test", "MB", "of the size", "ms a batch", "of the time", "Pareto front",
        f"within {', '.join(facts['targets'])}",
    )  # fmt: skip
    formats = {"MB": ".2f", "of the size": ".1%", "ms a batch": ".2f", "of the time": ".1%"}
    return Table("Smaller forms", columns, rows, formats=formats)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    try:
        budgets = [float(word) for word in values.budgets]
    except ValueError:
        raise UserError(f"--budgets={','.join(values.budgets)}: must be shares, as 0.75,0.5.") from None
    output = compress(
        values.workdir,
        values.output,
        values.target,
        methods=values.methods,
        budgets=budgets,
        every=values.all,
        recover_epochs=values.recover_epochs,
        rounds=values.rounds,
        overrides=given_keys(values.workdir),
        keep_from=values.keep_from,
        source=values.source,
    )
    print(f"written: {output}; table: {output / MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    define_config_flags()
    flags.DEFINE_string("workdir", None, "A run directory, in floats.")
    flags.DEFINE_string("output", None, "The directory to write; OUTPUT-candidates has all forms.")
    flags.DEFINE_list("target", [], "What the form is to come to: latency:0.5, size:10MB, size:0.5, loss:0.005.")
    flags.DEFINE_list("methods", list(METHODS), "What is tried: vocabulary, quantise, prune.")
    flags.DEFINE_list("budgets", [f"{each:g}" for each in BUDGETS], "Shares of the operations that pruned forms have.")
    flags.DEFINE_bool("all", False, "Whether methods are tried after those that reach the target, too.")
    flags.DEFINE_float(
        "recover_epochs", 0.0, "How long pruned forms are trained where nothing else reaches the target; 0: not at all."
    )
    flags.DEFINE_integer("rounds", 1, "In how many steps these are pruned.")
    flags.DEFINE_list("keep_from", [TRAIN], "Whose vocabulary is kept: train, all (every split), files of texts.")
    flags.DEFINE_string("source", None, "Data with training and validation splits; the run's own if not given.")
    program.run(main, USAGE)
