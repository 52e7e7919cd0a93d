"""The task `relations`: a source of related entities to an objective, rows and scores."""

# E pairs, C classes

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm.config import AUTO as AUTO_LENGTH
from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.relation_forms import RelationFields
from jaxfm.data.records.relations import RelationExample, RelationSplit, read_relations, usual_negative
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.markers import MarkedPair
from jaxfm.data.text.packing import PackedRows, most_together
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.evaluation.relations import split_direction
from jaxfm.schema import replaced
from jaxfm.tasks.fine_tuning import DEFAULTS, SHORTEST_ROWS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.losses import ClassLoss
from jaxfm.tasks.relations.checks import check_pairs, far_fix
from jaxfm.tasks.relations.markers import Marking, add_markers, choose_marking
from jaxfm.tasks.relations.objective import RelationObjective
from jaxfm.tasks.relations.predictor import RelationPredictor
from jaxfm.tasks.relations.scorer import DIRECTIONS, RelationScorer, targets_of
from jaxfm.tasks.relations.spec import (
    AUTO,
    NAME,
    NONE,
    PLAIN,
    EncodedPairs,
    RelationsConfig,
    RelationSpec,
    encode,
    mark_all,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNRELATED = "no_relation"  # class of generated pairs where neither the config nor the data name one
# Classes where no data says how many: those of SemEval-2010 task 8.
_SOME_CLASSES = ("Other", *(f"relation-{number}({way})" for number in range(9) for way in ("e1,e2", "e2,e1")))
_SOME_EXAMPLE = 32  # tokens


@dataclasses.dataclass(frozen=True)
class RelationsTask:
    """A classifier of pairs with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: RelationObjective
    tokenizer: "PreTrainedTokenizerFast"
    examples: Mapping[str, tuple[RelationExample, ...]]
    encoded: Mapping[str, EncodedPairs]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, DIRECTIONS)

    @property
    def datasets(self) -> Mapping[str, PackedRows]:
        """Split -> packed rows."""
        return {split: encoded.rows for split, encoded in self.encoded.items()}

    def scorer(self, split: str) -> RelationScorer:
        """Returns what scores a split."""
        return RelationScorer(self.objective.spec, self.examples[split], self.encoded[split])

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files, markers included."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class RelationsDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = RelationsConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> RelationObjective:
        """Builds model and loss without data or tokenizer, for shapes alone; markers have no types there."""
        config, loss = assumed_shapes(config), config.task.loss
        markers = NONE if config.task.markers == NONE else PLAIN
        # Any two tokens may be the markers: their rows are among those that pad the word embedding.
        starts = ((), ()) if markers == NONE else ((0,), (1,))
        marking = Marking(markers, (), ())
        segments = max(config.data.row_length // _SOME_EXAMPLE, 1) if config.data.packed else 1
        spec = _spec(config, encoder, _SOME_CLASSES, "Other", marking, starts, ())
        class_loss = ClassLoss(loss.label_smoothing, loss.focal_gamma)
        return RelationObjective(dataclasses.replace(spec, segments=segments), class_loss, loss.r_drop)

    def create(self, config: Config, initial: Initial) -> tuple[RelationsTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, fewer than two classes, a relation or a type unseen in training, entities that
            are too far apart to be read.
        """
        found = _prepare(config, initial)
        spec, config = found.spec, found.config
        head_note = "head: new"
        if set(initial.labels) == set(spec.labels) and _has_head(initial, spec):
            spec, head_note = (
                dataclasses.replace(spec, labels=initial.labels),
                "head: loaded, its classes are the data's",
            )
        lengths = np.asarray([min(each.length, spec.window) for each in found.marked["train"]], np.int64)
        spec = dataclasses.replace(spec, segments=most_together(lengths, spec.row_length) if config.data.packed else 1)
        examples = {split: read.examples for split, read in found.read.items()}
        encoded = {
            split: _encode(spec, found.tokenizer, examples[split], marked, config.seed if split == "train" else None)
            for split, marked in found.marked.items()
        }
        check_metrics(NAME, [example.relation for example in examples["train"]])
        used = _used(spec, initial, head_note != "head: new")
        params = {name: value for name, value in found.params.items() if name.startswith(used)}
        counts_C = np.bincount(targets_of(spec, examples["train"]), minlength=len(spec.labels))
        class_loss = ClassLoss.of(config.task.loss, spec.labels, counts_C)
        metric = _metric(config, spec)
        pairs, rows = len(examples["train"]), len(encoded["train"].rows)
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"{head_note}, {len(spec.labels)} classes ({_listed(spec.labels)})",
            *(read.note for read in found.read.values()),
            *found.notes,
            f"train: {pairs:,} pairs in {rows:,} rows, {pairs / rows:.1f} a row",
            *(note for split, done in encoded.items() for note in _cut_notes(split, done, spec.window)),
        )
        objective = RelationObjective(spec, class_loss, config.task.loss.r_drop)
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        return RelationsTask(objective, found.tokenizer, examples, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        found = _prepare(config, initial)
        examples = {split: read.examples for split, read in found.read.items()}
        positions, spec = initial.encoder.max_positions, found.spec
        return check_pairs(examples, found.marked, found.tokenizer, spec.window, positions, spec.negative)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> RelationSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(RelationSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: there were no relations when configs were of version 1."""
        del values
        return None

    def reopen(
        self, workdir: pathlib.Path, spec: RelationSpec, config: Config, source: str, split: str
    ) -> RelationsTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        read = read_relations(
            source,
            (split,),
            fields=_fields(config),
            unrelated=spec.negative if config.task.unrelated else "",
            related_types=set(zip(spec.pair_heads, spec.pair_tails, strict=True)),
            holdout=config.data.holdout,
            by=split_keys(config.data),
        )
        ((split, found),) = read.items()
        encoded = _encode(spec, tokenizer, found.examples, mark_all(spec, tokenizer, found.examples), None)
        notes = (found.note, *_cut_notes(split, encoded, spec.window))
        examples = {split: found.examples}
        return RelationsTask(RelationObjective(spec), tokenizer, examples, {split: encoded}, notes)

    def predictor(self, workdir: pathlib.Path, spec: RelationSpec) -> RelationPredictor:
        """Returns what relates entities of texts, with the calibration that the run fitted."""
        return RelationPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR), read_calibration(workdir))


class _Prepared(NamedTuple):
    """The source of a new run, and the encoder with rows for its markers.

    `config` has a number for the row length; the spec has one segment a row.
    """

    read: Mapping[str, RelationSplit]
    tokenizer: "PreTrainedTokenizerFast"
    marked: Mapping[str, Sequence[MarkedPair]]
    spec: RelationSpec
    params: Mapping[str, HostArray]
    config: Config
    notes: tuple[str, ...]


def _prepare(config: Config, initial: Initial) -> _Prepared:
    """Reads all splits, chooses classes and markers, and marks every pair."""
    read, negative = _read(config)
    train = read["train"].examples
    labels = tuple(sorted({str(example.relation) for example in train}))
    if len(labels) < 2:
        raise UserError(
            f"config.data.source: the training split of {config.data.source} has only the relation "
            f"{train[0].relation!r}: nothing to learn. (--config.task.unrelated=True adds pairs of "
            "entities that are not related.)"
        )
    tokenizer = open_tokenizer(initial)
    marking, marking_note = choose_marking(config.task.markers, train)
    grown = add_markers(marking, tokenizer, initial.encoder, initial.params)
    plain = replaced(config, {"data.row_length": SHORTEST_ROWS, "data.window": 0})  # lengths are not known yet
    spec = _spec(plain, grown.encoder, labels, negative, marking, grown.starts, train)
    marked = {split: mark_all(spec, tokenizer, found.examples) for split, found in read.items()}
    config = _with_row_length(config, marked, initial.encoder.max_positions)
    window = window_length(config.data, initial.encoder.max_positions)
    spec = dataclasses.replace(spec, row_length=config.data.row_length, window=window)
    frozen = marking.markers != NONE and _freezes_words(config)
    notes = (
        marking_note,
        *grown.notes,
        *((f"NOTE: {frozen}",) if frozen else ()),
        f"negative class: {negative}, left out of the scores" if negative else "negative class: none",
    )
    return _Prepared(read, tokenizer, marked, spec, grown.params, config, notes)


def _read(config: Config) -> tuple[dict[str, RelationSplit], str]:
    """Reads all splits; also the negative class, "" where there is none."""
    source, negative = config.data.source, config.task.negative
    if config.task.unrelated and not negative:
        raise UserError(
            "config.task.negative: is empty, but config.task.unrelated makes pairs that are not related examples: name "
            "their class, or leave it at auto."
        )
    generated = (UNRELATED if negative == AUTO else negative) if config.task.unrelated else ""
    read = read_relations(
        source,
        None,
        fields=_fields(config),
        unrelated=generated,
        holdout=config.data.holdout,
        by=split_keys(config.data),
    )
    labels = {str(example.relation) for example in read["train"].examples}
    if config.task.unrelated and generated not in labels:
        raise UserError(
            f"config.task.unrelated: is True, but no record of {source} has entities and relations with a pair of "
            "entities left over."
        )
    if negative == AUTO:
        named = usual_negative(labels - {UNRELATED}) if generated else usual_negative(labels)
        if generated and named:  # the data have a name for it
            read = {split: _renamed(found, generated, named) for split, found in read.items()}
        return read, named or generated
    if negative and negative not in labels:
        raise UserError(
            f"config.task.negative: no training pair of {source} has the relation {negative!r}. "
            f"{did_you_mean(negative, labels)}"
        )
    return read, negative


def _renamed(split: RelationSplit, old: str, new: str) -> RelationSplit:
    examples = tuple(
        dataclasses.replace(each, relation=new) if each.relation == old else each for each in split.examples
    )
    return RelationSplit(examples, split.note.replace(f"({old})", f"({new})"))


def _with_row_length(config: Config, marked: Mapping[str, Sequence[MarkedPair]], max_positions: int) -> Config:
    """Returns the config with a number for the row length: the usual one, or more where a pair needs more."""
    if config.data.row_length != AUTO_LENGTH:
        return config
    config = with_row_length(config, np.asarray([each.length for each in marked["train"]], np.int64), max_positions)
    needed = min(max(each.needed for found in marked.values() for each in found), max_positions)
    if needed > config.data.row_length:
        config = replaced(config, {"data.row_length": -(-needed // SHORTEST_ROWS) * SHORTEST_ROWS})
    return config


def _encode(
    spec: RelationSpec,
    tokenizer: "PreTrainedTokenizerFast",
    examples: Sequence[RelationExample],
    marked: Sequence[MarkedPair],
    seed: int | None,
) -> EncodedPairs:
    """Encodes labelled pairs; UserError names the place of two entities that are too far apart."""
    encoded = encode(spec, tokenizer, marked, targets_of(spec, examples), seed)
    far = np.flatnonzero(encoded.row_of < 0)
    if len(far):
        first, needed = int(far[0]), int(encoded.needed[far].max())
        raise UserError(
            f"{examples[first].origin}: the two entities and what is between them are {encoded.needed[first]:,} "
            f"tokens, but the model reads {spec.window:,} at once ({len(far):,} such pairs, the longest {needed:,}). "
            f"Nearest way: {far_fix(needed, spec.encoder.max_positions)}."
        )
    return encoded


def _spec(
    config: Config,
    encoder: EncoderConfig,
    labels: tuple[str, ...],
    negative: str,
    marking: Marking,
    starts: tuple[tuple[int, ...], tuple[int, ...]],
    train: Sequence[RelationExample],
) -> RelationSpec:
    related = sorted({(each.head.type, each.tail.type) for each in train if each.relation != negative})
    typed = all(head and tail for head, tail in related)
    return RelationSpec(
        labels=labels,
        negative=negative,
        encoder=encoder,
        markers=marking.markers,
        head_types=marking.head_types,
        tail_types=marking.tail_types,
        head_starts=starts[0],
        tail_starts=starts[1],
        pair_heads=tuple(head for head, _ in related) if typed else (),
        pair_tails=tuple(tail for _, tail in related) if typed else (),
        head_first=all(each.head.start < each.tail.start for each in train) if train else False,
        row_length=config.data.row_length,
        window=window_length(config.data, encoder.max_positions),
        segments=1,
    )


def _has_head(initial: Initial, spec: RelationSpec) -> bool:
    """Whether the loaded parameters have a head of this form."""
    return ("pooler/kernel" if spec.markers == NONE else "dense/kernel") in initial.params


def _used(spec: RelationSpec, initial: Initial, with_head: bool) -> tuple[str, ...]:
    """Returns the parts of a checkpoint that are used: its last layers only where its classes are the task's."""
    if spec.markers != NONE:
        return ("encoder/", *(("dense/", "head/") if with_head else ()))
    between = "transform/" if spec.encoder.classifier_transform else "pooler/"
    return ("encoder/", between, *(("head/",) if initial.labels == spec.labels else ()))


def _freezes_words(config: Config) -> str:
    """Returns what to say where the embeddings of the markers are not trained; "" where they are."""
    adapt = config.adapt
    if adapt.train == "all" and not (adapt.lora.rank or adapt.adapter_size or adapt.prefix_length):
        return ""
    return (
        "config.adapt leaves the word embedding as it is, that of the new markers included: they all keep the mean of "
        "the old rows. Expect less than of a run that trains all."
    )


def _metric(config: Config, spec: RelationSpec) -> str:
    """Returns the metric that `eval.metric=auto` stands for: that of SemEval's scorer, or of TACRED's."""
    if config.eval.metric != AUTO_METRIC:
        return config.eval.metric
    directed = any(split_direction(label)[1] is not None for label in spec.labels)
    return "macro_f1" if directed else "micro_f1"


def _cut_notes(split: str, encoded: EncodedPairs, window: int) -> list[str]:
    count = int(encoded.cut.sum())
    return [f"{split}: {count:,} texts are read around their entities only, {window} tokens"] if count else []


def _fields(config: Config) -> RelationFields:
    return RelationFields(config.data.text_column, config.data.label_column)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
