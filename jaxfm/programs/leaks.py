"""What a trained model gives away of its training texts: `python -m jaxfm.leaks --workdir=RUN`.

Members: how well training texts are told from those of another split by their loss. --secrets=FILE.txt, of a masked
language model: whether it knows what is in double brackets in each line ("the code is [[4711]]"). --against=URI,...:
which texts of evaluation sets are in the run's training data.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.data.corpora.deduplication import CONTAMINATION_WORDS
from jaxfm.data.corpora.overlap import Overlap, TrainingText, texts_of
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.evaluation import memorisation
from jaxfm.evaluation.bootstrap import CONFIDENCE
from jaxfm.evaluation.memorisation import FALSE_POSITIVES, Exposure, Membership, Secret
from jaxfm.observe.progress import Progress
from jaxfm.observe.studies import FOLDER, Study, StudyReport, show, write_study
from jaxfm.observe.tables import Cell, Table
from jaxfm.programs import plugins, program
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.training.ensemble import open_members

USAGE = (
    "usage: python -m jaxfm.leaks --workdir=RUN [--others=test] [--secrets=FILE.txt]\n"
    "  [--candidates=199] [--against=URI,...] [--output=DIR]"
)
CANDIDATES = 199
_SHOWN_CHARACTERS = 60


@dataclasses.dataclass(frozen=True, repr=False)
class LeakReport(StudyReport):
    """What was found.

    Attributes:
      membership: training texts against those of another split; None where the task has no loss of each unit.
      exposures: of the secrets.
      overlaps: evaluation set -> what of it is in the training data.
    """

    membership: Membership | None
    exposures: tuple[Exposure, ...]
    overlaps: dict[str, Overlap]


def leaks(
    workdir: str | pathlib.Path,
    others: str = "test",
    *,
    secrets: str | pathlib.Path | None = None,
    candidates: int = CANDIDATES,
    against: Sequence[str] = (),
    progress: Progress | None = None,
) -> LeakReport:
    """Looks for what a run gives away.

    Args:
      workdir: a run directory.
      others: the split that training texts are compared with, of texts like them that were not trained on.
      secrets: a file with a secret in double brackets in each line.
      candidates: made-up secrets that each is ranked among.
      against: URIs of evaluation sets; of their splits valid and test are looked up, or what else they have.
      progress: where to show how far it is.

    Raises:
      UserError: a run, split or file that cannot be read, a line without a secret, secrets of a model that gives no
        probability of each token.
    """
    progress = progress or Progress(None, quiet=True)
    workdir = files.user_path(workdir, "--workdir")
    others = require_split(others)
    if others == "train":
        raise UserError("--others=train: training texts are compared with those of another split.")
    named = () if secrets is None else _read_secrets(files.user_path(secrets, "--secrets"))
    if candidates < 19:
        raise UserError(f"--candidates={candidates}: must be at least 19, the fewest that can give p = 0.05.")
    source = open_members(workdir)[0].config.data.source
    model = Model(workdir)
    exposures = _exposures(model, named, candidates, progress) if named else ()
    members = _membership(workdir, others, progress)
    overlaps = _overlaps(source, against, progress) if against else {}
    study = _study(others, members, exposures, overlaps, model.step)
    return LeakReport(study, members, exposures, overlaps)


def _read_secrets(path: pathlib.Path) -> tuple[Secret, ...]:
    try:
        files.check_size(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--secrets={path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8: {error}.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(memorisation.parse_secret(line.strip(), f"{path}:{number}"))
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}.") from None
    if not found:
        raise UserError(f"{path}: has no lines.")
    return tuple(found)


def _exposures(model: Model, secrets: Sequence[Secret], candidates: int, progress: Progress) -> tuple[Exposure, ...]:
    found = []
    with progress.task("secrets (texts)", len(secrets) * (candidates + 1)) as advance:
        for number, secret in enumerate(secrets):
            scores = []
            for result in model([secret.text, *secret.others(candidates, number)]):
                if "pseudo_perplexity" not in result:
                    raise UserError(
                        f"{model.workdir}: is a run of the task {model.task}, which gives no probability of each token "
                        "of a text; --secrets is for masked language models."
                    )
                end = secret.end
                tokens = [each for each in result["tokens"] if each["start"] < end and each["end"] > secret.start]
                scores.append(sum(each["log_probability"] for each in tokens))
            advance(candidates + 1)
            found.append(memorisation.exposure_of(secret, scores[0], scores[1:]))
    return tuple(found)


def _membership(workdir: pathlib.Path, others: str, progress: Progress) -> Membership | None:
    """Returns None where the task is not scored by units that have a loss each."""
    losses = []
    for split in ("train", others):
        data = evaluate(workdir, split, progress=progress).bootstrap_data
        if data is None or "loss" not in data.units or np.ndim(data.units["loss"]) != 1:
            return None
        losses.append(data.units["loss"])
    return memorisation.membership(*losses)


def _overlaps(source: str, against: Sequence[str], progress: Progress) -> dict[str, Overlap]:
    with progress.task(f"reading the training texts of {source}", None):
        training = TrainingText(texts_of(source, ("train",)))
    found = {}
    for each in against:
        with progress.task(f"looking up {each}", None):
            found[each] = training.overlap(texts_of(each, ("valid", "test")))
    return found


def _study(
    others: str,
    members: Membership | None,
    exposures: Sequence[Exposure],
    overlaps: dict[str, Overlap],
    step: int,
) -> Study:
    tables, summary, values = list[Table](), list[str](), dict[str, Any]()
    sure = f"{CONFIDENCE:.0%}"
    if members is not None:
        row: tuple[Cell, ...] = (members.members, members.others, members.area.value, members.area.low)
        row += (members.area.high, members.p, members.caught)
        columns = (
            "train",
            others,
            "area under ROC",
            f"{sure} from",
            "to",
            "p (half)",
            f"caught at {FALSE_POSITIVES:.0%}",
        )
        tables.append(Table("Members: are losses of training texts lower?", columns, [row]))
        told = "are" if members.p < 1 - CONFIDENCE else "are not shown to be"
        summary.append(
            f"Training texts {told} told from those of {others} by their loss: the area under the ROC curve is "
            f"{members.area.value:.3f} ({sure} interval {members.area.low:.3f} to {members.area.high:.3f})."
        )
        values["members"] = dataclasses.asdict(members)
    else:
        summary.append("Members were not looked at: the task has no loss of each text.")
    if exposures:
        known = memorisation.known_by_heart(exposures)
        rows: list[tuple[Cell, ...]] = [
            (_short(each.secret.text), each.rank, each.candidates, each.exposure, each.p, "yes" if is_known else "no")
            for each, is_known in zip(exposures, known, strict=True)
        ]
        columns = ("text", "rank", "of", "exposure, bits", "p", "by heart")
        tables.append(Table("Secrets: their rank among made-up ones", columns, rows))
        summary.append(
            f"{sum(known)} of {len(known)} secrets are known by heart (p < {1 - CONFIDENCE:.2g} for all together)."
        )
        values["secrets"] = [
            {
                "origin": each.secret.origin,
                "rank": each.rank,
                "candidates": each.candidates,
                "exposure": each.exposure,
                "p": each.p,
                "known": is_known,
            }
            for each, is_known in zip(exposures, known, strict=True)
        ]
    if overlaps:
        rows = [(name, each.texts, each.whole, each.parts, each.share) for name, each in overlaps.items()]
        columns = ("evaluation set", "texts", "whole", f"{CONTAMINATION_WORDS} words", "share")
        tables.append(Table("Evaluation texts that are in the training data", columns, rows))
        examples = [(name, _short(text)) for name, each in overlaps.items() for text in each.examples]
        if examples:
            tables.append(Table("Some of them", ("evaluation set", "text"), examples))
        for name, each in overlaps.items():
            found = f"{each.whole + each.parts:,} ({each.share:.1%}) are in the training data."
            summary.append(f"Of {each.texts:,} texts of {name}, {found}")
        values["overlaps"] = {name: dataclasses.asdict(each) | {"share": each.share} for name, each in overlaps.items()}
    return Study("leaks", "What it gives away of its training texts", tuple(summary), tables, values, step)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    workdir = files.user_path(values.workdir, "--workdir")
    folder = workdir / FOLDER if values.output is None else files.output_directory(values.output, "--output")
    with Progress(None) as progress:
        found = leaks(
            workdir,
            values.others,
            secrets=values.secrets,
            candidates=values.candidates,
            against=values.against,
            progress=progress,
        )
        show(found.study, progress)
    write_study(folder, found.study)
    print(f"written: {folder / found.study.name}.md, .json")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("others", "test", "The split of texts that were not trained on.")
    flags.DEFINE_string("secrets", None, "A file with a secret in double brackets in each line.")
    flags.DEFINE_integer("candidates", CANDIDATES, "Made-up secrets that each one is ranked among.")
    flags.DEFINE_list("against", [], "URIs of evaluation sets, with commas between them.")
    flags.DEFINE_string("output", None, "A folder for what was found; WORKDIR/studies if not given.")
    program.run(main, USAGE)
