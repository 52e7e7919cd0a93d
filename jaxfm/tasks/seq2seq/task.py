"""The task `seq2seq`: a source of pairs of texts to an objective, rows and scores."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.text_pairs import PairColumns, TextPair, TextPairSplit, read_text_pairs
from jaxfm.data.text.packing import PackedRows, most_together
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, with_row_length
from jaxfm.tasks.held_out import HeldOut, spread
from jaxfm.tasks.seq2seq.checks import check_pairs
from jaxfm.tasks.seq2seq.controls import LENGTH, Controls
from jaxfm.tasks.seq2seq.encoding import EncodedPairs, Tokens, blank_rows, encoded_pairs, pieces, training_rows
from jaxfm.tasks.seq2seq.first import open_writer, sighted
from jaxfm.tasks.seq2seq.lengths import LengthRule, fit_lengths
from jaxfm.tasks.seq2seq.objective import Seq2SeqObjective
from jaxfm.tasks.seq2seq.predictor import Seq2SeqPredictor
from jaxfm.tasks.seq2seq.scorer import DIRECTIONS, Seq2SeqScorer
from jaxfm.tasks.seq2seq.spec import DIFFUSION, NAME, Seq2SeqConfig, Seq2SeqSpec, check_decoding, said_decoding
from jaxfm.tasks.seq2seq.text_scores import missing_packages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LEAST_SOURCE = 8  # tokens of a source that a row must have room for beside the longest target
_SOME_PAIR = 64  # tokens, where no data says how many pairs a row holds
_MADE_UP = Tokens(opening=2, separator=3, padding=0, mask=4)  # for shapes alone
Pairs = Mapping[str, tuple[TextPair, ...]]


@dataclasses.dataclass(frozen=True)
class Seq2SeqTask:
    """A model that writes with the splits of one source (implements jaxfm.core.task.Task).

    Attributes:
      objective: the model and its loss.
      tokenizer: of both texts.
      pairs: split -> pairs.
      training: rows of "train"; None where a trained run is evaluated.
      held_out: other splits -> rows.
      notes: lines for the log.
      chosen: see core.task.Task.
    """

    objective: Seq2SeqObjective
    tokenizer: "PreTrainedTokenizerFast"
    pairs: Pairs
    training: PackedRows | None
    held_out: Mapping[str, HeldOut]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, DIRECTIONS)

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> rows."""
        return {**({} if self.training is None else {"train": self.training}), **self.held_out}

    def scorer(self, split: str) -> Seq2SeqScorer:
        """Returns what scores a held-out split."""
        return Seq2SeqScorer(self.tokenizer, self.pairs[split], self.held_out[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold are the references."""
        return [
            {"text": each.source, **each.controls, "origin": each.origin, "gold": list(each.targets)}
            for each in self.pairs[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class Seq2SeqDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = Seq2SeqConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> Seq2SeqObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = assumed_shapes(config)
        segments = max(config.data.row_length // _SOME_PAIR, 1) if config.data.packed else 1
        half = max(config.data.row_length // (2 * segments), 2)
        most = config.task.max_target + 1 if config.task.max_target else half
        spec = Seq2SeqSpec(
            encoder=sighted(encoder, config.task.way),
            way=config.task.way,
            row_length=config.data.row_length,
            window=window_length(config.data, encoder.max_positions),
            segments=segments,
            targets=min(segments * most, config.data.row_length),
            lengths=LengthRule(0.0, most, most),
            controls=Controls(config.task.controls),
            unmasking=config.task.unmasking,
            decoding=config.task.decoding,
        )
        return Seq2SeqObjective(spec, _MADE_UP, config.task.logits_chunk)

    def create(self, config: Config, initial: Initial) -> tuple[Seq2SeqTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, a blank text, a target that no row has room for, a tokenizer without separator.
        """
        read = _read(config)
        encoder, tokenizer, notes = open_writer(config, initial, read["train"].pairs)
        made = _make(config, encoder, tokenizer, {split: found.pairs for split, found in read.items()})
        spec, tokens = made.spec, Tokens.of(tokenizer)
        training = training_rows(spec, tokens, made.encoded["train"], config.seed)
        labels_NT = training.labels
        spec = dataclasses.replace(spec, targets=int((labels_NT >= 0).sum(axis=1).max()))
        wanted = {"valid": config.task.valid_written, "test": config.task.test_written or None}
        held_out = {
            split: _held_out(spec, tokens, found, wanted[split])
            for split, found in made.encoded.items()
            if split != "train"
        }
        said = [found.note + made.notes[split] for split, found in read.items()]
        packed = f"train: {len(made.pairs['train']):,} pairs in {len(training):,} rows"
        lengths = (_said_lengths(spec), *_said_missing(config))
        params = {name: value for name, value in initial.params.items() if name.startswith(_USED)}
        return Seq2SeqTask(
            Seq2SeqObjective(spec, tokens, config.task.logits_chunk),
            tokenizer,
            made.pairs,
            training,
            held_out,
            (*notes, *initial.left_over(_USED), *said, packed, *lengths),
            {"data.row_length": spec.row_length, "eval.metric": "loss"},
        ), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        read = _read(config)
        encoder, tokenizer, _ = open_writer(config, initial, read["train"].pairs)
        made = _make(config, encoder, tokenizer, {split: found.pairs for split, found in read.items()})
        return check_pairs(made.spec, made.pairs, made.lengths, made.encoded, tokenizer)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> Seq2SeqSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(Seq2SeqSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no run of version 1 of config.json was of this task."""
        del values
        return None

    def reopen(self, workdir: pathlib.Path, spec: Seq2SeqSpec, config: Config, source: str, split: str) -> Seq2SeqTask:
        """Builds the task of a trained run over one split of (other) pairs, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        columns = PairColumns(config.data.text_column, config.data.label_column, spec.controls.columns)
        options = {
            "columns": columns,
            "holdout": config.data.holdout,
            "by": split_keys(config.data),
            "dialogue": _dialogue(config),
        }
        read = read_text_pairs(source, (split,), **options)
        ((split, found),) = read.items()
        tokens = Tokens.of(tokenizer)
        encoded, note = _encode_held_out(spec, tokenizer, found.pairs)
        rows = _held_out(spec, tokens, encoded, config.task.test_written or None)
        objective = Seq2SeqObjective(spec, tokens, config.task.logits_chunk)
        return Seq2SeqTask(
            objective, tokenizer, {split: found.pairs}, None, {split: rows}, (found.note + note, *_said_missing(config))
        )

    def predictor(self, workdir: pathlib.Path, spec: Seq2SeqSpec) -> Seq2SeqPredictor:
        """Returns what writes a target for a source."""
        return Seq2SeqPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR))


_USED = ("encoder/", "transform/", "decoder/")


@dataclasses.dataclass(frozen=True)
class _Made:
    """A spec and all splits as tokens.

    Attributes:
      spec: but for `targets`, which packing says.
      pairs: split -> pairs, those of train that are learned.
      encoded: the same as tokens.
      lengths: split -> tokens of sources and of targets as they are, int64 [E, 2].
      notes: split -> what is cut and left out.
    """

    spec: Seq2SeqSpec
    pairs: Pairs
    encoded: Mapping[str, EncodedPairs]
    lengths: Mapping[str, np.ndarray]
    notes: Mapping[str, str]


def _read(config: Config) -> dict[str, TextPairSplit]:
    source, data = config.data.source, config.data
    own = tuple(name for name in config.task.controls if name != LENGTH)
    columns = PairColumns(data.text_column, data.label_column, own)
    read = read_text_pairs(
        source, None, columns=columns, holdout=data.holdout, by=split_keys(data), dialogue=_dialogue(config)
    )
    if "train" not in read:
        raise UserError(f"config.data.source: {source} has no training split; it has {', '.join(read)}.")
    return read


def _dialogue(config: Config) -> DialogueOptions:
    # A sign that a tokenizer keeps, and not its separator, which ends the source.
    return DialogueOptions(config.task.context_turns, " | ", config.task.responder)


def _make(config: Config, encoder: EncoderConfig, tokenizer: "PreTrainedTokenizerFast", pairs: Pairs) -> _Made:
    """Tokenizes all splits and finds the spec."""
    task, train = config.task, pairs["train"]
    controls = Controls.of(task.controls, [pair.targets[0] for pair in train])
    sources = pieces(
        tokenizer,
        [controls.training(pair.source, pair.controls, pair.targets[0], task.control_dropout) for pair in train],
    )
    targets = pieces(tokenizer, [pair.targets[0] for pair in train])
    _check_targets(train, targets)
    lengths = np.asarray([(len(a), len(b)) for a, b in zip(sources, targets, strict=True)], np.int64)
    kept = np.flatnonzero(lengths[:, 1] <= (task.max_target or lengths[:, 1].max()))
    if not len(kept):
        raise UserError(f"config.task.max_target: all targets of train have more than {task.max_target} tokens.")
    longest = int(lengths[kept, 1].max())
    config = with_row_length(config, lengths[:, 0] + longest + 3, encoder.max_positions)
    window = window_length(config.data, encoder.max_positions)
    _check_room(train, lengths, longest, window)
    rule = fit_lengths(np.minimum(lengths[kept, 0], window), lengths[kept, 1], exact=task.way == DIFFUSION)
    check_decoding(task.decoding, rule.most, "config.task.decoding.")
    spec = Seq2SeqSpec(
        encoder=encoder,
        way=task.way,
        row_length=config.data.row_length,
        window=window,
        segments=1,
        targets=1,
        lengths=rule,
        controls=controls,
        unmasking=task.unmasking,
        decoding=task.decoding,
    )
    encoded = {"train": encoded_pairs(spec, [sources[i] for i in kept], [targets[i] for i in kept])}
    if config.data.packed:
        read = np.asarray([len(source) for source in encoded["train"].sources])
        block = np.maximum(rule.block(read), [len(target) + 1 for target in encoded["train"].targets])
        spec = dataclasses.replace(spec, segments=most_together(read + block + 2, spec.row_length))
    notes = {"train": _cut_note(encoded["train"], len(train) - len(kept), longest)}
    sizes = {"train": lengths}
    for split, found in pairs.items():
        if split != "train":
            encoded[split], notes[split] = _encode_held_out(spec, tokenizer, found)
            sizes[split] = np.asarray(
                [(len(a), len(b)) for a, b in zip(encoded[split].sources, encoded[split].targets, strict=True)]
            )
    return _Made(spec, {**pairs, "train": tuple(train[i] for i in kept)}, encoded, sizes, notes)


def _check_targets(pairs: Sequence[TextPair], targets: Sequence[Sequence[int]]) -> None:
    for pair, target in zip(pairs, targets, strict=True):
        if not target:
            raise UserError(f"{pair.origin}: the tokenizer has no token for the target {pair.targets[0]!r:.60}.")


def _check_room(pairs: Sequence[TextPair], lengths: np.ndarray, longest: int, window: int) -> None:
    """Raises UserError, with its place, for a target that leaves no room for a source."""
    room = window - 3 - _LEAST_SOURCE
    if longest <= room:
        return
    index = next(index for index, size in enumerate(lengths[:, 1]) if room < size <= longest)
    over = int((lengths[:, 1] > room).sum())
    fewer = f"a target of at most {room} tokens" if room > 0 else "no target"
    raise UserError(
        f"{pairs[index].origin}: the target has {lengths[index, 1]:,} tokens, but a segment of {window} tokens has "
        f"room for {fewer} beside a source of {_LEAST_SOURCE} (targets of train that are longer: {over:,}). Raise "
        f"config.data.row_length, or set config.task.max_target={max(room, 1)}: longer ones are left out."
    )


def _encode_held_out(
    spec: Seq2SeqSpec, tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[TextPair]
) -> tuple[EncodedPairs, str]:
    """Returns pairs as tokens, and what is cut.

    A control that is computed of the target is not given: scores would be of a model that knows it. Targets are cut to
    the longest that is learned, for the loss alone: references stay whole.
    """
    written = [spec.controls.written(pair.source, pair.controls) for pair in pairs]
    targets = pieces(tokenizer, [pair.targets[0] for pair in pairs])
    _check_targets(pairs, targets)
    most = spec.lengths.most - 1
    over = sum(len(target) > most for target in targets)
    encoded = encoded_pairs(spec, pieces(tokenizer, written), [target[:most] for target in targets])
    return encoded, _cut_note(encoded, over, most, "cut for the loss")


def _cut_note(encoded: EncodedPairs, over: int, longest: int, what: str = "left out") -> str:
    cut = int(encoded.cut.sum())
    said = f"; {cut:,} sources longer than what is read, whose end is cut" if cut else ""
    return said + (f"; {over:,} targets of more than {longest} tokens {what}" if over else "")


def _held_out(spec: Seq2SeqSpec, tokens: Tokens, encoded: EncodedPairs, wanted: int | None) -> HeldOut:
    """Packs a split: all pairs with targets, and `wanted` of them (None: all) to be written."""
    count = len(encoded.sources)
    chosen = spread(count, count if wanted is None else wanted)
    blank = blank_rows(spec, tokens, [encoded.sources[index] for index in chosen.tolist()])
    return HeldOut(training_rows(spec, tokens, encoded, None), blank, chosen)


def _said_missing(config: Config) -> tuple[str, ...]:
    """Returns what to say of scores that cannot be computed here."""
    said = missing_packages() if config.task.valid_written else ""
    return (f"NOTE: {said}",) if said else ()


def _said_lengths(spec: Seq2SeqSpec) -> str:
    rule = spec.lengths
    if spec.way != DIFFUSION:
        how = said_decoding(spec.decoding)
        return f"targets: at most {rule.most - 1} tokens, {how}; sources: the first {spec.max_source} tokens"
    return (
        f"targets: written into {rule.ratio:g} x source {rule.extra:+} places, at most {rule.most}; sources: the first "
        f"{spec.max_source} tokens"
    )
