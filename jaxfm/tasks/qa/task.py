"""The task `qa`: a source of questions to an objective, rows and scores."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import AUTO, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.questions import Question, QuestionColumns, QuestionSplit, read_questions
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.packing import PackedRows, most_together
from jaxfm.data.text.question_windows import QuestionWindows
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.schema import replaced
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.qa.checks import check_questions, out_of_reach, whole_lengths
from jaxfm.tasks.qa.objective import QaObjective
from jaxfm.tasks.qa.predictor import QaPredictor
from jaxfm.tasks.qa.scorer import QaScorer, directions
from jaxfm.tasks.qa.spec import NAME, EncodedQuestions, QaConfig, QaSpec, encode, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SOME_WINDOW = 64  # tokens, where no data says how many windows a row holds


@dataclasses.dataclass(frozen=True)
class QaTask:
    """A reader of contexts with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: QaObjective
    tokenizer: "PreTrainedTokenizerFast"
    questions: Mapping[str, tuple[Question, ...]]
    encoded: Mapping[str, EncodedQuestions]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, directions(self.objective.spec))

    @property
    def datasets(self) -> Mapping[str, PackedRows]:
        """Split -> packed rows."""
        return {split: encoded.rows for split, encoded in self.encoded.items()}

    def scorer(self, split: str) -> QaScorer:
        """Returns what scores a split."""
        return QaScorer(self.objective.spec, self.questions[split], self.encoded[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold are the texts of the answers."""
        return [
            {"text": each.question, "pair": each.context, "origin": each.origin}
            | {"gold": [answer.text for answer in each.answers]}
            for each in self.questions[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class QaDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = QaConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> QaObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = assumed_shapes(config)
        segments = max(config.data.row_length // _SOME_WINDOW, 1) if config.data.packed else 1
        return QaObjective(_spec(config, encoder, segments=segments, no_answer=True))

    def create(self, config: Config, initial: Initial) -> tuple[QaTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, windows too short for questions, a damaged record.
        """
        read, tokenizer = _read(config), open_tokenizer(initial)
        questions = {split: found.questions for split, found in read.items()}
        config, spec, windows = _windows(config, initial.encoder, tokenizer, questions)
        check_metrics(NAME, [tuple(answer.text for answer in each.answers) for each in questions["train"]])
        encoded = {
            split: encode(
                spec,
                tokenizer,
                windows[split],
                [each.answers[0] if each.answers else None for each in found],
                config.seed if split == "train" else None,
            )
            for split, found in questions.items()
        }
        used = ("encoder/", *(("transform/",) if spec.encoder.classifier_transform else ()), "spans/")
        head_note = "head: loaded" if any(name.startswith("spans/") for name in initial.params) else "head: new"
        said = [found.note + _notes(spec, found.questions, windows[split]) for split, found in read.items()]
        notes = (*initial.notes, *initial.left_over(used), head_note, *said, _packed_note(encoded["train"]))
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": "f1"}
        return QaTask(QaObjective(spec), tokenizer, questions, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        tokenizer = open_tokenizer(initial)
        questions = {split: found.questions for split, found in _read(config).items()}
        _, spec, windows = _windows(config, initial.encoder, tokenizer, questions)
        return check_questions(spec, questions, windows, tokenizer)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> QaSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(QaSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no run of version 1 of config.json was of this task."""
        del values
        return None

    def reopen(self, workdir: pathlib.Path, spec: QaSpec, config: Config, source: str, split: str) -> QaTask:
        """Builds the task of a trained run over one split of (other) questions, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        read = read_questions(
            source, (split,), columns=_columns(config), holdout=config.data.holdout, by=split_keys(config.data)
        )
        ((split, found),) = read.items()
        windows = tokenize(spec, tokenizer, [(each.question, each.context) for each in found.questions])
        encoded = encode(spec, tokenizer, windows)
        notes = (found.note + _notes(spec, found.questions, windows),)
        return QaTask(QaObjective(spec), tokenizer, {split: found.questions}, {split: encoded}, notes)

    def predictor(self, workdir: pathlib.Path, spec: QaSpec) -> QaPredictor:
        """Returns what answers questions, with the calibration that the run fitted."""
        return QaPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR), read_calibration(workdir))


def _read(config: Config) -> dict[str, QuestionSplit]:
    source = config.data.source
    read = read_questions(
        source, None, columns=_columns(config), holdout=config.data.holdout, by=split_keys(config.data)
    )
    if "train" not in read:
        raise UserError(f"config.data.source: {source} has no training split with answers; it has {', '.join(read)}.")
    return read


def _columns(config: Config) -> QuestionColumns:
    return QuestionColumns(config.data.text_column, config.data.pair_column, config.data.label_column)


def _windows(
    config: Config,
    encoder: EncoderConfig,
    tokenizer: "PreTrainedTokenizerFast",
    questions: Mapping[str, Sequence[Question]],
) -> tuple[Config, QaSpec, dict[str, QuestionWindows]]:
    """Returns the config with a number for the row length, the spec, and the windows of each split."""
    no_answer = any(not each.answers for each in questions["train"])

    def cut(spec: QaSpec, split: str) -> QuestionWindows:
        return tokenize(spec, tokenizer, [(each.question, each.context) for each in questions[split]])

    if config.data.row_length == AUTO:
        longest = replaced(config, {"data.row_length": encoder.max_positions})
        whole = cut(_spec(longest, encoder, segments=1, no_answer=no_answer), "train")
        config = with_row_length(config, whole_lengths(whole), encoder.max_positions)
    spec = _spec(config, encoder, segments=1, no_answer=no_answer)
    windows = {split: cut(spec, split) for split in questions}
    if config.data.packed:
        lengths = [len(tokens) for tokens in windows["train"].tokens]
        spec = dataclasses.replace(spec, segments=most_together(lengths, spec.row_length))
    return config, spec, windows


def _spec(config: Config, encoder: EncoderConfig, *, segments: int, no_answer: bool) -> QaSpec:
    return QaSpec(
        encoder=encoder,
        row_length=config.data.row_length,
        window=window_length(config.data, encoder.max_positions),
        overlap=config.task.overlap,
        max_question=config.task.max_question,
        max_answer=config.task.max_answer,
        segments=segments,
        no_answer=no_answer,
    )


def _notes(spec: QaSpec, questions: Sequence[Question], windows: QuestionWindows) -> str:
    """Says what of a split is cut, and which answers are out of reach."""
    several = int((np.bincount(windows.question, minlength=len(questions)) > 1).sum())
    cut = int(windows.cut.sum())
    unreachable = len(out_of_reach(spec, questions, windows))
    facts = (
        (several, "contexts read in several windows"),
        (cut, f"questions cut to {spec.max_question} tokens"),
        (unreachable, f"answers of more than {spec.max_answer} tokens, or whole in no window, which are never given"),
    )
    return "".join(f"; {count:,} {what}" for count, what in facts if count)


def _packed_note(encoded: EncodedQuestions) -> str:
    windows, rows = len(encoded.windows.tokens), len(encoded.rows)
    return f"train: {windows:,} windows in {rows:,} rows, {windows / max(rows, 1):.1f} a row"
