"""Scores a run on inputs changed on purpose: `python -m jaxfm.stress --workdir=RUN [--split=test] [--max_drop=0.05]`.

Typing errors, other case, marks, white space, letters that look alike, exchanged names, longer texts; blur and noise of
images. The score, the calibration and the flipped answers by kind and severity, with paired intervals, are written to
RUN/stress. With --max_drop the program ends with code 3 where the score falls by more. --ood=URI: how well the run
tells records of its domain from others. --tests=FILE: tests of behaviour that a person has written down.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.core.records import IMAGE
from jaxfm.data.perturbations.behaviour_tests import slots_of
from jaxfm.data.perturbations.kinds import KINDS, SEVERITIES, SYNONYMS, Resources, kinds_for, perturbed
from jaxfm.data.records import in_memory
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.evaluation.robustness import judge
from jaxfm.observe import studies
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.studies import write_study
from jaxfm.programs import plugins, program
from jaxfm.programs.stress_domain import detections
from jaxfm.programs.stress_report import MARKDOWN_FILE, StressReport, study_of, worst_cases, write_stress
from jaxfm.programs.stress_run import Opened, effects, entities_of, needs_entities, open_stress
from jaxfm.programs.stress_synonyms import open_synonyms
from jaxfm.programs.stress_tests import checked_tests, run_tests

USAGE = (
    "usage: python -m jaxfm.stress --workdir=DIR [--split=test] [--source=URI]\n"
    "  [--kinds=NAME,...] [--severities=1,3,5] [--metric=NAME] [--limit=N] [--seed=0]\n"
    "  [--max_drop=0.05] [--strict] [--ood=URI] [--ood_split=test]\n"
    "  [--tests=FILE.jsonl] [--synonyms=run:DIR] [--similarity=run:DIR] [--output=DIR]"
)
EXIT_DROPPED = 3
DEFAULT_SEVERITIES = (1, 3, 5)
FOLDER = "stress"
NONE = "none"


def stress(
    workdir: str | pathlib.Path,
    split: str = "test",
    source: str | None = None,
    *,
    kinds: Sequence[str] = (),
    severities: Sequence[int] = DEFAULT_SEVERITIES,
    metric: str | None = None,
    limit: int = 0,
    seed: int = 0,
    max_drop: float | None = None,
    strict: bool = False,
    ood: str | None = None,
    ood_split: str = "test",
    tests: str | pathlib.Path | None = None,
    synonyms: str | None = None,
    similarity: str | None = None,
    output: str | pathlib.Path | None = None,
    data: Any = None,
    progress: Progress | None = None,
) -> StressReport:
    """Scores a run, or a folder of several as an ensemble, on inputs changed on purpose.

    Args:
      workdir: a run directory, or a folder of runs.
      split: train, valid or test.
      source: URI of other data with the same labels.
      kinds: of changes, or groups of them; ("none",): none; empty: all that fit the task and need nothing more.
      severities: 1 to 5 each.
      metric: that is compared; by default the one that chose the checkpoint.
      limit: most records of a split, drawn by the seed; 0: all.
      seed: of the changes.
      max_drop: most that the score may fall; `StressReport.passes` says whether it holds.
      strict: whether the whole interval of a drop has to be within `max_drop`, not its lower end alone.
      ood: URI of records from elsewhere, whose labels do not matter.
      ood_split: the split of these.
      tests: a file of tests of behaviour (docs/stress.md).
      synonyms: "run:DIR", a run of a masked language model, for the kind "synonyms".
      similarity: "run:DIR", a run of vectors of texts, which leaves out synonyms that move the text's vector too far.
      output: the folder to write; WORKDIR/stress by default, "" for none.
      data: other data, in memory, as `evaluate` takes them.
      progress: where to show how far it is.

    Raises:
      UserError: no such run, split, kind, severity or metric; a task whose inputs cannot be changed; a file of tests
        that is wrong; both `source` and `data`.
    """
    split = require_split(split)
    _check_numbers(severities, limit, max_drop, strict)
    if data is not None and source is not None:
        raise UserError(f"source={source!r} and data: give one of them.")
    run_folder = files.user_path(workdir, "--workdir")
    folder = run_folder / FOLDER if output is None else files.user_path(output, "--output") if str(output) else None
    if folder is not None:
        files.check_parents(folder, "--output")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output={folder}: is a file; name a directory.")
    asked = _Asked(tuple(kinds), tuple(dict.fromkeys(severities)), seed, limit)
    provided = contextlib.nullcontext(source) if data is None else in_memory.provided(data, alone=split)
    with libraries_quieted(), provided as found, progress or Progress(None, quiet=True) as shown:
        opened = open_stress(run_folder, split, found, metric, limit, seed)
        for note in opened.notes:
            shown.say(note)
        report = _report(opened, asked, found, tests, synonyms, similarity, shown)
        if ood is not None:
            measured, notes = detections(opened, ood, require_split(ood_split), limit=limit, seed=seed, progress=shown)
            report = dataclasses.replace(report, detections=measured, notes=(*report.notes, *notes))
    if max_drop is not None:
        report = dataclasses.replace(report, verdict=judge(report.effects, max_drop, strict=strict))
    if folder is not None:
        write_stress(folder, report)
    if output is None and len(opened.runs) == 1:
        write_study(run_folder / studies.FOLDER, study_of(report, opened.restored[0].step))
    return report


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for of changes."""

    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    limit: int


def _check_numbers(severities: Sequence[int], limit: int, max_drop: float | None, strict: bool) -> None:
    for each in severities or (0,):
        if each not in SEVERITIES:
            raise UserError(f"--severities={each}: is one of {', '.join(map(str, SEVERITIES))}.")
    if limit < 0:
        raise UserError(f"--limit={limit}: must be 0 (all) or more.")
    if max_drop is not None and not max_drop >= 0:
        raise UserError(f"--max_drop={max_drop}: must be 0 or more, in units of the metric (0.05: five points).")
    if strict and max_drop is None:
        raise UserError("--strict: says how --max_drop judges; give it too.")


def _report(
    opened: Opened,
    asked: _Asked,
    source: str | None,
    tests: str | pathlib.Path | None,
    synonyms: str | None,
    similarity: str | None,
    progress: Progress,
) -> StressReport:
    changes = opened.changes
    wants = asked.kinds != (NONE,)
    if wants and NONE in asked.kinds:
        raise UserError(f"--kinds={','.join(asked.kinds)}: {NONE} stands alone.")
    if similarity is not None and synonyms is None:
        raise UserError(f"--similarity={similarity}: judges what --synonyms proposes; give it too.")
    if synonyms is not None and changes.reads == IMAGE:
        raise UserError(f"--synonyms={synonyms}: the run reads images, which have no words.")
    path = None if tests is None else files.user_path(tests, "--tests")
    written = [] if path is None else checked_tests(path, opened, None)
    used = [*(asked.kinds if wants else ()), *slots_of(written)]
    entities, note = entities_of(opened.runs[0], changes) if needs_entities(used) else ({}, "")
    found_synonyms = None if synonyms is None else open_synonyms(synonyms, similarity, progress)
    resources = Resources(entities, found_synonyms, None if found_synonyms is None else found_synonyms.resolve)
    kinds = kinds_for(changes.reads, asked.kinds, "--kinds", resources) if wants else []
    if path is not None:
        written = checked_tests(path, opened, resources)
    clean, found, worst = None, [], ()
    if kinds:
        clean, found = effects(opened, kinds, asked.severities, resources, asked.seed, progress)
        records = opened.records

        def changed(unit: int, kind: str, severity: int) -> Any:
            return perturbed(records[unit], kind, severity, asked.seed, resources)

        worst = worst_cases(clean, found, records, opened.index, changed)
    results = run_tests(opened, written, resources, asked.seed) if written else ()
    return StressReport(
        str(opened.runs[0].workdir if opened.ensemble is None else opened.runs[0].workdir.parent),
        source or opened.runs[0].config.data.source,
        opened.split,
        asked.seed,
        opened.metric,
        clean,
        tuple(found),
        worst,
        tests=tuple(results),
        notes=tuple(filter(None, (note, *opened.notes))),
    )


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    if values.kinds == [NONE] and not (values.ood or values.tests):
        raise UserError(f"--kinds={NONE}: then nothing is left to do without --ood and --tests.\n{USAGE}")
    if values.kinds == [NONE] and values.max_drop is not None:
        raise UserError(f"--max_drop: judges changes of inputs, and --kinds={NONE} makes none.\n{USAGE}")
    try:
        severities = [int(each) for each in values.severities]
    except ValueError:
        raise UserError(f"--severities={','.join(values.severities)}: are whole numbers, 1 to 5.\n{USAGE}") from None
    with Progress(None) as progress:
        report = stress(
            values.workdir,
            values.split,
            values.source,
            kinds=values.kinds,
            severities=severities,
            metric=values.metric,
            limit=values.limit,
            seed=values.seed,
            max_drop=values.max_drop,
            strict=values.strict,
            ood=values.ood,
            ood_split=values.ood_split,
            tests=values.tests,
            synonyms=values.synonyms,
            similarity=values.similarity,
            output=values.output,
            progress=progress,
        )
        for note in report.notes:
            progress.say(note)
        for table in report.tables:
            progress.table(table)
        if report.verdict is not None:
            progress.say("\n" + "\n".join(report.verdict.lines()))
    folder = pathlib.Path(values.workdir).expanduser() / FOLDER if values.output is None else values.output
    if folder:
        print(f"\nwritten: {pathlib.Path(folder) / MARKDOWN_FILE}")
    if not report.passes:
        sys.exit(EXIT_DROPPED)


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    needing = ", ".join(kind.name for kind in KINDS.values() if kind.needs == SYNONYMS)
    flags.DEFINE_string("workdir", None, "A run directory, or a folder of several runs: an ensemble.")
    flags.DEFINE_string("split", "test", "The split that is scored, or another usual name of it (dev, testb ...).")
    flags.DEFINE_string("source", None, "Data to score on; the run's own if not given.")
    flags.DEFINE_alias("data", "source")
    flags.DEFINE_list(
        "kinds",
        [],
        f"Changes: {', '.join(KINDS)}, or typos (keyboard, swaps, ocr); {NONE}: none. All that fit the task, {needing} "
        "apart, if not given.",
    )
    flags.DEFINE_list("severities", list(map(str, DEFAULT_SEVERITIES)), "How strong, 1 to 5 each.")
    flags.DEFINE_string("metric", None, "The score that is compared; that which chose the checkpoint, if not given.")
    flags.DEFINE_integer("limit", 0, "Most records of a split, drawn by the seed; 0: all.")
    flags.DEFINE_integer("seed", 0, "Of the changes.")
    flags.DEFINE_float("max_drop", None, "Most that the score may fall, in its own unit; code 3 where it falls more.")
    flags.DEFINE_bool("strict", False, "--max_drop: the upper end of each interval counts, not the lower one.")
    flags.DEFINE_string("ood", None, "Records from elsewhere: how well the run's numbers tell them apart.")
    flags.DEFINE_string("ood_split", "test", "The split of --ood.")
    flags.DEFINE_string("tests", None, "A file of tests of behaviour: JSON lines, or TOML.")
    flags.DEFINE_string("synonyms", None, "run:DIR, a run of a masked language model, for the kind synonyms.")
    flags.DEFINE_string("similarity", None, "run:DIR, a run of vectors of texts, which judges synonyms too.")
    flags.DEFINE_string("output", None, f"The folder to write; WORKDIR/{FOLDER} if not given.")
    program.run(main, USAGE)
