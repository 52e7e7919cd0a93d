"""Masked-LM pretraining: guess hidden tokens (Devlin et al. 2019, section 3.1), from scratch or from any weights."""

# B batch, T tokens, P predictions a row, D model, V vocabulary, N rows, U units

import dataclasses
import functools
import math
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.core.task import NOT_CALIBRATED, TOKENIZER_DIR, Evaluation, read_task, write_task
from jaxfm.data.corpora.pretraining import open_pretraining, open_split
from jaxfm.data.pipeline import Rows
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary, vocabulary_of
from jaxfm.data.text.masked_rows import MaskedRows
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.initial import Initial
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.observe.tables import Table
from jaxfm.tasks.fill_mask import FillMask
from jaxfm.tasks.mask_shares import mask_notes, mask_split, mask_sums, row_counts, scored_part
from jaxfm.tasks.masked_predictions import masked_token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How often each token occurs in the training split: what `evaluate` compares with needs it.
COUNTS_FILE = "token_counts.json"
# Nats below the unigram loss under which a model is held to have learnt nothing but how frequent tokens are.
_STUCK = 0.3


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What guessing by frequency alone reaches, from the training split's tokens.

    Attributes:
      counts: [V] how often each token occurs there.
      log_probs: [V] log of each token's share (one is added to each count).
      top: the most frequent token.
    """

    counts: np.ndarray
    log_probs: np.ndarray
    top: int

    @classmethod
    def of(cls, counts_V: np.ndarray, vocabulary: MaskVocabulary) -> "Baseline":
        """Counts only tokens that can be hidden."""
        some_V = np.where(vocabulary.maskable, counts_V + 1.0, 0.0)
        with np.errstate(divide="ignore"):
            return cls(counts_V, np.log(some_V / some_V.sum()), int(some_V.argmax()))


@dataclasses.dataclass(frozen=True)
class MaskedLMObjective:
    """An encoder with a vocabulary head and what it has to guess (implements jaxfm.core.task.Objective)."""

    encoder: EncoderConfig
    vocabulary: MaskVocabulary
    masking: Masking
    ratios: tuple[float, float]
    z_loss: float
    logits_chunk: int

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool, remat: str = "none") -> nnx.Module:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, Build(dtype, scan, remat), rngs)

    def label_shape(self, row_length: int) -> tuple[tuple[int, ...], np.dtype]:
        """One a token, written over by what is hidden."""
        return (row_length,), np.dtype(np.int32)

    def loss(
        self, model: MaskedLM, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """Cross-entropy summed over the tokens hidden at this step, plus the z-loss; also their "accuracy".

        "masked_share" is of all tokens but padding, "rows_without_target" of the rows. Without any target loss and
        weight are 0.
        """
        mask_key, dropout_key = jax.random.split(key)
        masked = self.mask(batch, mask_key, progress)
        found = masked_token_losses(
            model, masked, self.limit(batch, self.masking.unit), dropout_key, at_once=self.logits_chunk
        )
        weight = found["weight"].sum()
        accuracy = weighted((found["right"] * found["weight"]).sum(), weight)
        return self.total(found), (weight, {"accuracy": accuracy, **mask_sums(batch, masked["labels"])})

    def ratio(self, progress: jax.Array | float) -> jax.Array | float:
        """Returns the share of the tokens to hide at `progress` (0 to 1) of a run."""
        first, last = self.ratios
        return first + (last - first) * progress

    def mask(self, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float) -> dict[str, jax.Array]:
        """Returns the batch with tokens hidden, and those that they were as labels."""
        tokens_BT, labels_BT = masking.mask_tokens(
            key,
            batch["tokens"],
            batch["segment_ids"],
            self.vocabulary,
            self.masking,
            ratio=self.ratio(progress),
            limit=self.limit(batch, self.masking.unit),
        )
        return {**batch, "tokens": tokens_BT, "labels": labels_BT}

    def limit(self, batch: Mapping[str, jax.Array], *units: str) -> int:
        """Returns P, the number of places a row that hidden tokens of these units may take."""
        length = batch["tokens"].shape[1]
        return max(masking.max_predictions(unit, max(self.ratios), length) for unit in units)

    def total(self, found: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the sum of cross-entropy and z-loss of what `compare` found."""
        return found["loss"].sum() + self.z_loss * jnp.sum(found["log_z"] ** 2 * found["weight"])


@dataclasses.dataclass(frozen=True)
class MaskedLMTask(MaskedLMObjective):
    """The same over packed text (implements jaxfm.core.task.Task)."""

    tokenizer: "PreTrainedTokenizerFast"
    units: tuple[str, ...]
    training: Mapping[str, Rows]
    held_out: Mapping[str, MaskedRows]
    baseline: Baseline
    notes: tuple[str, ...]

    name = "masked_lm"
    selection_metrics = {"loss": False, "accuracy": True, "perplexity": False}

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns for the P first labelled tokens of each row: "place", "target" (-1: none), "predicted", "loss"."""
        found = masked_token_losses(model, batch, self.limit(batch, *self.units), at_once=self.logits_chunk)
        return {name: found[name] for name in ("place", "target", "predicted", "loss")}

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return (*self.training, *self.held_out)

    def rows(self, split: str) -> Rows:
        """Returns a split's packed rows; those held out are there once for each unit, each with fixed masks."""
        return self.training[split] if split in self.training else self.held_out[split]

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def score(
        self, split: str, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Masked loss (nats a hidden token), accuracy and perplexity by unit, beside guessing by frequency."""
        by_unit = {
            unit: unit_scores({name: values[part] for name, values in outputs.items()}, self.baseline)
            for unit, part in unit_parts(self.units, outputs).items()
        }
        own = by_unit[self.masking.unit]
        rows = self.held_out[split]
        metrics = {name: own[name] for name in ("loss", "accuracy", "perplexity")}
        metrics |= {
            f"{name}_{unit}": scores[name]
            for unit, scores in by_unit.items()
            if unit != self.masking.unit
            for name in ("loss", "accuracy")
        }
        return Evaluation(
            metrics=metrics,
            scores=metrics | {"units": by_unit, **row_counts(rows)},
            tables=(_table(by_unit, f"{self.ratios[1]:.0%} of the text, by unit{scored_part(rows)}"),),
            predictions=self._records(split, outputs),
            warnings=unigram_plateau_warning(own),
            bootstrap_data=self.bootstrap_data(outputs),
        )

    def bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns loss, accuracy and perplexity as a function of the packed rows, under the masks of every unit."""
        there, right = outputs["target"] >= 0, outputs["target"] == outputs["predicted"]
        each = {"targets": there, "right": right & there, "loss": np.where(there, outputs["loss"], 0.0)}
        return BootstrapData(
            sampling_unit="rows",
            units=row_sums(
                self.units, outputs, {name: values.sum(axis=-1, dtype=np.float64) for name, values in each.items()}
            ),
            computed=functools.partial(_row_metrics, own=self.masking.unit, units=self.units),
            identity=row_identity(self.units, outputs, {"hidden": outputs["target"]}),
        )

    def save(self, workdir: pathlib.Path, **own: Any) -> None:
        """Writes task.json, with the values of the objective's `own`, the tokenizer's files and the token counts."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        files.write_json(workdir / COUNTS_FILE, self.baseline.counts.tolist())
        values = {
            "encoder": dataclasses.asdict(self.encoder),
            "masking": dataclasses.asdict(self.masking),
            "ratios": self.ratios,
            "units": self.units,
        }
        write_task(workdir, {"task": self.name, "objective": "mlm", **values, **own})

    def _records(self, split: str, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row under the masks of the run's own unit: the hidden tokens, and what was guessed."""
        part = unit_parts(self.units, outputs)[self.masking.unit]
        rows = self.held_out[split]
        tokens_NT = rows.tokens[self.units.index(self.masking.unit)]
        to_text = self.tokenizer.convert_ids_to_tokens
        for index, tokens_T in enumerate(tokens_NT):
            row = part.start + index
            there = outputs["target"][row] >= 0
            gold, guessed = outputs["target"][row][there], outputs["predicted"][row][there]
            yield {
                "row": int(rows.index[index]),
                "correct": bool((gold == guessed).all()),
                "text": self.tokenizer.decode(tokens_T[tokens_T != rows.pad_id].tolist()),
                "hidden": [
                    {"place": int(place), "token": wanted, "predicted": found, "loss": round(float(loss), 4)}
                    for place, wanted, found, loss in zip(
                        outputs["place"][row][there],
                        to_text(gold.tolist()),
                        to_text(guessed.tolist()),
                        outputs["loss"][row][there],
                        strict=True,
                    )
                ],
            }


def create(config: Config, initial: Initial) -> MaskedLMTask:
    """Opens the source (prepares it first where it is plain text) and builds the task of a new run.

    Raises:
      UserError: an empty corpus, a tokenizer that does not fit the weights, shares that do not add up.
    """
    chosen = Masking(config.mask.unit, config.mask.mask_share, config.mask.random_share)
    return assemble(config, initial, chosen, _head_note(initial))


def assemble(config: Config, initial: Initial, chosen: Masking, head_notes: tuple[str, ...]) -> MaskedLMTask:
    """Builds what every objective over hidden tokens needs; see `create`."""
    _check(config, initial)
    data = open_pretraining(config.data, config.model.tokenizer, initial.tokenizer)
    tokenizer = load_tokenizer(data.tokenizer)
    encoder = initial.encoder
    if not initial.params:
        encoder = dataclasses.replace(encoder, vocab_size=len(tokenizer))
    check_tokenizer(tokenizer, encoder.vocab_size, data.tokenizer, needs_mask=True)
    training = {"train": data.rows["train"]}
    vocabulary = vocabulary_of(tokenizer, encoder.padded_vocab_size)
    counts_V = data.token_counts(encoder.padded_vocab_size)
    task = MaskedLMTask(
        **vars(_hidden_tokens(config, encoder, vocabulary, chosen)),
        tokenizer=tokenizer,
        units=tuple(dict.fromkeys((config.mask.unit, *config.mask.evaluate))),
        training=training,
        held_out={},
        baseline=Baseline.of(counts_V, vocabulary),
        notes=(*initial.notes, *head_notes, *data.notes),
    )
    others = {split: rows for split, rows in data.rows.items() if split != "train"}
    held_out = {split: mask_split(task, split, rows, config.eval.rows) for split, rows in others.items()}
    return dataclasses.replace(
        task, held_out=held_out, notes=(*task.notes, *mask_notes(task, training["train"], counts_V, held_out))
    )


def outline(config: Config, encoder: EncoderConfig) -> MaskedLMObjective:
    """Builds model and loss without text or tokenizer, for shapes alone."""
    return assume(config, encoder, Masking(config.mask.unit, config.mask.mask_share, config.mask.random_share))


def assume(config: Config, encoder: EncoderConfig, chosen: Masking) -> MaskedLMObjective:
    """Builds what `assemble` does, but over a made-up vocabulary: a few special tokens, and every other a word."""
    index = np.arange(encoder.padded_vocab_size)
    maskable = (index > 4) & (index < encoder.vocab_size)
    vocabulary = MaskVocabulary(mask_id=4, maskable=maskable, continues=np.zeros_like(maskable))
    return _hidden_tokens(config, encoder, vocabulary, chosen)


def _hidden_tokens(
    config: Config, encoder: EncoderConfig, vocabulary: MaskVocabulary, chosen: Masking
) -> MaskedLMObjective:
    first, last = config.mask.ratio, config.mask.final_ratio
    ratios = (first, first if last is None else last)
    return MaskedLMObjective(encoder, vocabulary, chosen, ratios, config.mask.z_loss, config.mask.logits_chunk)


def _check(config: Config, initial: Initial) -> None:
    """Raises UserError for what contradicts each other, before hours go into preparing a corpus."""
    if initial.params and initial.tokenizer is not None:
        tokenizer = load_tokenizer(initial.tokenizer)
        check_tokenizer(tokenizer, initial.encoder.vocab_size, initial.tokenizer, needs_mask=True)
    if config.data.row_length > initial.encoder.max_positions:
        raise UserError(
            f"config.data.row_length: {config.data.row_length} tokens, but the encoder has "
            f"{initial.encoder.max_positions} positions. Take at most that many."
        )
    for field in dataclasses.fields(config.loss):
        if value := getattr(config.loss, field.name):
            raise UserError(
                f"config.loss.{field.name}: is {value!r}, but masked LM is trained on the hidden tokens as they are. "
                f"Leave it at {field.default!r}."
            )
    if config.mask.mask_share + config.mask.random_share > 1:
        raise UserError(
            f"config.mask.random_share: {config.mask.random_share} and mask_share {config.mask.mask_share} exceed 1 "
            "together."
        )
    for unit in config.mask.evaluate:
        if unit not in masking.UNITS:
            raise UserError(f"config.mask.evaluate: {unit!r}. {did_you_mean(unit, masking.UNITS)}")


def _head_note(initial: Initial) -> tuple[str, ...]:
    if not initial.params:
        return ()
    parts = [part for part in ("transform/", "decoder/") if any(name.startswith(part) for name in initial.params)]
    if len(parts) == 2:
        return ("masked-LM head: loaded with the weights",)
    if parts:
        return ("masked-LM head: its transform is loaded with the weights, its bias over the vocabulary starts at 0",)
    return ("masked-LM head: new, the weights have none that can be used",)


def select_params(task: MaskedLMTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the encoder and, where there is one, the vocabulary head."""
    del task
    used = ("encoder/", "transform/", "decoder/")
    return {name: value for name, value in initial.params.items() if name.startswith(used)}


def open_task(workdir: pathlib.Path, config: Config, source: str, split: str) -> MaskedLMTask:
    """Builds the task of a trained run over one split of (other) text, for evaluation."""
    values = read_task(workdir)
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    encoder = EncoderConfig(**values["encoder"])
    vocabulary = vocabulary_of(tokenizer, encoder.padded_vocab_size)
    task = MaskedLMTask(
        encoder=encoder,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        masking=Masking(**values["masking"]),
        ratios=tuple(values["ratios"]),
        z_loss=0.0,
        logits_chunk=config.mask.logits_chunk,
        units=tuple(values["units"]),
        training={},
        held_out={},
        baseline=Baseline.of(np.asarray(files.read_json(workdir / COUNTS_FILE)), vocabulary),
        notes=(),
    )
    rows = open_split(dataclasses.replace(config.data, source=source), split, workdir / TOKENIZER_DIR)
    return dataclasses.replace(task, held_out={split: mask_split(task, split, rows, config.eval.rows)})


def open_predictor(workdir: pathlib.Path) -> FillMask:
    """Returns what fills in masks with a trained run."""
    values = read_task(workdir)
    return FillMask(EncoderConfig(**values["encoder"]), load_tokenizer(workdir / TOKENIZER_DIR))


# A filler knows all that an export needs.
open_exporter = open_predictor


def unit_parts(units: tuple[str, ...], outputs: Mapping[str, np.ndarray]) -> dict[str, slice]:
    """Returns which of the held-out rows were hidden in which unit; see `MaskedRows`."""
    rows = len(outputs["target"])
    each = rows // len(units)
    assert each * len(units) == rows, "one copy of the rows for each unit"
    return {unit: slice(number * each, (number + 1) * each) for number, unit in enumerate(units)}


def row_sums(
    units: tuple[str, ...], outputs: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns values of the held-out rows, float64 [N], under "NAME UNIT" for each way the rows were hidden in."""
    parts = unit_parts(units, outputs)
    return {f"{name} {unit}": values[parts[unit]].astype(np.float64) for unit in units for name, values in each.items()}


def row_identity(
    units: tuple[str, ...], outputs: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray]
) -> list[tuple[str, ...]]:
    """Returns what tells a row's targets from those of other data: checksums of the arrays `gold`, for each unit."""
    each = [
        [f"{name} tokens (by {unit}) with checksum {zlib.crc32(row.tobytes()):08x}" for row in values[part]]
        for unit, part in unit_parts(units, outputs).items()
        for name, values in gold.items()
    ]
    return list(zip(*each, strict=True))


def unigram_plateau_warning(scores: Mapping[str, float]) -> tuple[str, ...]:
    """Says so where the masked loss is still about what guessing by frequency reaches."""
    if not scores["loss"] > scores["unigram_loss"] - _STUCK:
        return ()
    return (
        f"NOTE: the masked loss, {scores['loss']:.2f}, is not yet clearly below that of guessing by frequency alone, "
        f"{scores['unigram_loss']:.2f}. Where it stays there for thousands of steps, the usual causes are too small a "
        "batch, no warm-up or too high a rate for a deep encoder, and many duplicates in the text.",
    )


def unit_scores(outputs: Mapping[str, np.ndarray], baseline: Baseline) -> dict[str, float]:
    """Returns loss, perplexity and accuracy of the hidden tokens of one unit, and those of the baseline."""
    there = outputs["target"] >= 0
    target = outputs["target"][there]
    # A split of a few tokens may have none hidden: no score is better than a perfect one.
    loss = float(outputs["loss"][there].mean(dtype=np.float64)) if len(target) else math.nan
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": float((outputs["predicted"][there] == target).mean()) if len(target) else math.nan,
        "targets": len(target),
        "unigram_loss": float(-baseline.log_probs[target].mean()) if len(target) else math.nan,
        "unigram_accuracy": float((target == baseline.top).mean()) if len(target) else math.nan,
    }


def _row_metrics(rows: Units, weight_RN: np.ndarray, *, own: str, units: tuple[str, ...]) -> dict[str, np.ndarray]:
    metrics = {}
    for unit in units:
        loss, right, targets = (weight_RN @ rows[f"{name} {unit}"] for name in ("loss", "right", "targets"))
        none = np.where(targets > 0, 0.0, math.nan)  # as `unit_scores`: no score is better than a perfect one
        found = {name: value / np.maximum(targets, 1.0) + none for name, value in (("loss", loss), ("accuracy", right))}
        if unit == own:
            metrics |= found | {"perplexity": np.exp(np.minimum(found["loss"], 700.0))}
        else:
            metrics |= {f"{name}_{unit}": value for name, value in found.items()}
    return metrics


def _table(by_unit: Mapping[str, Mapping[str, float]], what: str) -> Table:
    columns = ("unit", "loss", "perplexity", "accuracy", "unigram loss", "unigram accuracy", "targets")
    names = ("loss", "perplexity", "accuracy", "unigram_loss", "unigram_accuracy", "targets")
    rows = [(unit, *(scores.get(name) for name in names)) for unit, scores in by_unit.items()]
    return Table(f"Hidden tokens ({what})", columns, rows, formats={"perplexity": ",.1f"})
