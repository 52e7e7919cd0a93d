"""Looks at the data of a run before training: `python -m jaxfm.check --config=FILE[:variant] [--config.KEY=VALUE ...]`.

It exits with 0 where nothing is wrong or doubtful findings alone are made, with 1 where training would be refused or
its scores would mean nothing, and with 2 where the data cannot be read at all.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from jaxfm import files
from jaxfm.config import AUTO, Config
from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.core.few_labels import FitPlan, FitsHead, PlansFit
from jaxfm.core.initial import Initial
from jaxfm.data.records import in_memory
from jaxfm.data.records.key_division import LeakError, key_notes, leak_warnings
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.split_keys import ALLOW, SplitKeys
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.writers import to_json
from jaxfm.parallel import mesh as meshes
from jaxfm.programs import program
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import initial as initials
from jaxfm.training import workdir as workdirs
from jaxfm.training.batch_size import batch_of_examples
from jaxfm.training.schedule import FEW, count_evaluations, count_updates, train_batches

USAGE = (
    "usage: python -m jaxfm.check CONFIG [--data=URI] [--config.KEY=VALUE ...] [--output=FILE.json]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)
EXIT_ERRORS = 1


def check(config: GivenConfig, *, data: Any = None, overrides: Mapping[str, Any] | None = None) -> DataCheck:
    """Looks at what a run with this config would train on.

    The task's own checks (`TaskDefinition.check`) come first; then the task is made as training makes it, up to the
    number of updates, so that whatever training would refuse is an error here.

    Args:
      config: a name ("ner:files"), the path of a config file, a ConfigDict, or a checked Config; as for `jaxfm.train`.
      data: what to look at, in place of `config.data.source`; as for `jaxfm.train`.
      overrides: values of single keys, by their dotted names: {"data.text_column": "review"}.

    Raises:
      UserError: the data or the weights cannot be read at all.
    """
    chosen = resolve_config(config, overrides)
    with contextlib.ExitStack() as held:
        held.enter_context(libraries_quieted())
        if data is not None:
            chosen = replaced(chosen, {"data.source": held.enter_context(in_memory.provided(data))})
        initial = initials.resolve(chosen.model)
        checked = _checked(chosen, initial)
        definition = registry.definition(chosen.task.name)
        plan = definition.fit_plan(chosen) if isinstance(definition, PlansFit) else None
        found = _training(chosen, initial) if plan is None else _fitting(plan, chosen, initial)
        return dataclasses.replace(checked, findings=(*checked.findings, *found))


def _checked(config: Config, initial: Initial) -> DataCheck:
    """Returns what the task's own checks find; splits that leak are read all the same, and training refuses them."""
    definition = registry.definition(config.task.name)
    try:
        return definition.check(config, initial)
    except LeakError:
        return definition.check(replaced(config, {"data.leaks": ALLOW}), initial)


class UpdatePlan(NamedTuple):
    """What training would choose for the keys that are left to the data, and how far it would go.

    Attributes:
      config: with numbers in place of what is left open.
      splits: those that the task has.
      updates: of the optimizer, early stopping aside.
      epochs: passes over the training rows.
      evaluations: of the validation split, early stopping aside.
      notes: how the batch size came about.
      said: the task's own notes.
    """

    config: Config
    splits: tuple[str, ...]
    updates: int
    epochs: float
    evaluations: int
    notes: tuple[str, ...]
    said: tuple[str, ...] = ()


def plan_updates(config: Config, initial: Initial) -> UpdatePlan:
    """Makes the task as training makes it, and counts the updates of the run.

    With train.batch_size=auto, which is known once the step is compiled, there is nothing to count: all numbers are 0.

    Raises:
      UserError: whatever training would refuse about the data.
    """
    mesh = meshes.make_mesh(config.parallel.mesh)
    task, _ = registry.create(config, initial)
    rows = task.datasets["train"]
    config = workdirs.with_values(config, task.chosen)
    config, notes = batch_of_examples(config, rows.volume, mesh)
    splits = tuple(task.datasets)
    if config.train.batch_size == AUTO:
        return UpdatePlan(config, splits, 0, 0.0, 0, notes, tuple(task.notes))
    batches = train_batches(config, rows, mesh)
    updates, _ = count_updates(config, batches)
    evaluations = count_evaluations(config, batches, updates)
    epochs = batches.epoch_of(updates)
    return UpdatePlan(config, splits, updates, epochs, evaluations, notes, tuple(task.notes))


def _apart(by: SplitKeys, notes: Sequence[str]) -> Iterator[Finding]:
    """Yields by which groups and times splits are kept apart, and leaks that are allowed."""
    if said := key_notes(notes):
        level = "leaks that config.data.leaks=allow lets through aside, " if leak_warnings(notes) else ""
        yield Finding("ok", "groups and times", f"{level}{by.rule}", examples=tuple(said))
    for warning in leak_warnings(notes):
        fix = "--config.data.leaks=drop leaves these records out: scores are too good otherwise"
        yield Finding("warning", "groups and times", warning, fix)


def _fitting(plan: FitPlan, config: Config, initial: Initial) -> Iterator[Finding]:
    """Yields what is learned otherwise than by steps on labels, or why training would refuse it."""
    try:
        task, _ = registry.create(config, initial)
        pairs = len(task.pair_records(config)) if plan.pairs and isinstance(task, FitsHead) else 0
    except UserError as error:
        yield Finding("error", "training", str(error), "training refuses to start until this is mended")
        return
    yield from _apart(split_keys(config.data), task.notes)
    if pairs:
        yield Finding("ok", "pairs", f"the encoder learns from {pairs:,} pairs of examples ({plan.key})")
    what = "is fitted to the vectors of the training examples" if plan.head else "is used as it is"
    yield Finding("ok", "head", f"the last layer {what} ({plan.key})")


def _training(config: Config, initial: Initial) -> Iterator[Finding]:
    """Yields what training would choose and how many updates it would make, or why it would refuse."""
    try:
        plan = plan_updates(config, initial)
    except UserError as error:
        yield Finding("error", "training", str(error), "training refuses to start until this is mended")
        return
    yield from _apart(split_keys(config.data), plan.said)
    if "valid" not in plan.splits:
        fix = "leave config.data.holdout at None, or give a file of validation examples"
        yield Finding("warning", "validation", "there is no validation split, by which a checkpoint is chosen", fix)
    if not plan.updates:
        yield Finding("ok", "updates", "known once train.batch_size=auto has found what fits into memory")
        return
    message = (
        f"{plan.updates:,} updates of {plan.config.train.batch_size:,} rows of {plan.config.data.row_length} "
        f"({plan.epochs:.1f} epochs), {plan.evaluations:,} evaluations by {plan.config.eval.metric}"
    )
    if plan.updates < FEW:
        fix = "set more --config.train.epochs, or --config.train.min_steps=200 with --config.train.steps=0"
        yield Finding("warning", "updates", f"{message}: a new head needs some hundred", fix, plan.notes)
        return
    yield Finding("ok", "updates", message, examples=plan.notes)


def _lines(found: DataCheck) -> Iterator[str]:
    """Yields the findings for a person: one line each, then its examples and what to do."""
    for each in found.findings:
        yield f"{each.level + ':':9}{each.check}: {each.message}"
        yield from (f"           {example}" for example in each.examples)
        if each.fix:
            yield f"         -> {each.fix}"
    errors, warnings = found.count("error"), found.count("warning")
    yield f"\n{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if values.config is None:
        raise UserError(f"--config is missing.\n{USAGE}")
    output = None if values.output is None else files.output_file(values.output, "--output")
    config = registry.from_config_dict(values.config)
    program.say_shipped_config()
    found = check(config)
    progress = Progress(None)
    for table in found.tables:
        progress.table(table)
    progress.say("")
    for line in _lines(found):
        progress.say(line)
    if output is not None:
        named = {"task": config.task.name, "source": config.data.source}
        files.write_json(output, to_json(named | found.to_dict()))
    if found.count("error"):
        sys.exit(EXIT_ERRORS)


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("output", None, "A JSON file for what was found.")
    program.run(main, USAGE)
