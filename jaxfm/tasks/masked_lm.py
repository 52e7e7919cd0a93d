"""Masked-LM pretraining: guess hidden tokens (Devlin et al. 2019, section 3.1), from scratch or from any weights."""

# B batch, T tokens, P predictions a row, D model, V vocabulary, N rows, U units

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data import masking
from jaxfm.data.masking import Masking, MaskVocabulary
from jaxfm.data.packing import ArrayRows
from jaxfm.data.pipeline import Rows
from jaxfm.data.pretraining import open_pretraining, open_split
from jaxfm.data.tokenization import check_tokenizer, load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.initial import Initial
from jaxfm.models.heads import MaskedLM
from jaxfm.models.presets import EncoderConfig
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.observe.tables import Table
from jaxfm.tasks.filler import Filler
from jaxfm.tasks.task import TASK_FILE, TOKENIZER_DIR, Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Masks of held-out rows never change, so that runs with other seeds are scored on the same targets.
_EVALUATION_SEED = 20181011
# Nats below the unigram loss under which a model is held to have learnt nothing but how frequent tokens are.
_STUCK = 0.3
# A vocabulary of a multiple of 64 rows can be cut over devices and keeps matrix units full (Karpathy 2023, nanoGPT).
_VOCABULARY_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What guessing by frequency alone reaches, from the training split's tokens.

    Attributes:
      log_probs: [V] log of each token's share (one is added to each count).
      top: the most frequent token.
    """

    log_probs: np.ndarray
    top: int

    @classmethod
    def of(cls, counts_V: np.ndarray, vocabulary: MaskVocabulary) -> "Baseline":
        """Counts only tokens that can be hidden."""
        counts_V = np.where(vocabulary.maskable, counts_V + 1.0, 0.0)
        with np.errstate(divide="ignore"):
            return cls(np.log(counts_V / counts_V.sum()), int(counts_V.argmax()))


@dataclasses.dataclass(frozen=True)
class MaskedLMTask:
    """An encoder with a vocabulary head over packed text (implements jaxfm.tasks.task.Task)."""

    encoder: EncoderConfig
    tokenizer: "PreTrainedTokenizerFast"
    vocabulary: MaskVocabulary
    masking: Masking
    ratios: tuple[float, float]
    z_loss: float
    units: tuple[str, ...]
    training: Mapping[str, Rows]
    held_out: Mapping[str, ArrayRows]
    baseline: Baseline | None
    notes: tuple[str, ...]

    name = "masked_lm"
    choosing = {"loss": False, "accuracy": True, "perplexity": False}

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool) -> nnx.Module:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, rngs, dtype=dtype, scan=scan)

    def loss(
        self, model: MaskedLM, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """Cross-entropy summed over the tokens hidden at this step, plus the z-loss; also their "accuracy"."""
        mask_key, dropout_key = jax.random.split(key)
        first, last = self.ratios
        limit = masking.max_predictions(self.masking.unit, max(self.ratios), batch["tokens"].shape[1])
        tokens_BT, labels_BT = masking.mask_tokens(
            mask_key,
            batch["tokens"],
            batch["segment_ids"],
            self.vocabulary,
            self.masking,
            ratio=first + (last - first) * progress,
            limit=limit,
        )
        hidden_BTD = model.hidden({**batch, "tokens": tokens_BT}, key=dropout_key)
        found = _predict(model, hidden_BTD, labels_BT, limit)
        weight = found["weight"].sum()
        loss = found["loss"].sum() + self.z_loss * jnp.sum(found["log_z"] ** 2 * found["weight"])
        return loss, (weight, {"accuracy": weighted((found["right"] * found["weight"]).sum(), weight)})

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns for the P first labelled tokens of each row: "place", "target" (-1: none), "predicted", "loss"."""
        ratio = max(self.ratios)
        length = batch["tokens"].shape[1]
        limit = max(masking.max_predictions(unit, ratio, length) for unit in self.units)
        found = _predict(model, model.hidden(batch), batch["labels"], limit)
        return {name: found[name] for name in ("place", "target", "predicted", "loss")}

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return (*self.training, *self.held_out)

    def rows(self, split: str) -> Rows:
        """Returns a split's packed rows; those held out are there once for each unit, each with fixed masks."""
        return self.training[split] if split in self.training else self.held_out[split]

    def score(self, split: str, outputs: Mapping[str, np.ndarray]) -> Evaluation:
        """Masked loss (nats a hidden token), accuracy and perplexity by unit, beside guessing by frequency."""
        by_unit = {
            unit: _scores({name: values[part] for name, values in outputs.items()}, self.baseline)
            for unit, part in zip(self.units, _parts(len(outputs["target"]), len(self.units)), strict=True)
        }
        own = by_unit[self.masking.unit]
        metrics = {name: own[name] for name in ("loss", "accuracy", "perplexity")}
        metrics |= {
            f"{name}_{unit}": scores[name]
            for unit, scores in by_unit.items()
            if unit != self.masking.unit
            for name in ("loss", "accuracy")
        }
        remarks = ()
        if "unigram_loss" in own and own["loss"] > own["unigram_loss"] - _STUCK:
            remarks = (
                f"NOTE: the masked loss, {own['loss']:.2f}, is not yet below that of guessing by frequency alone, "
                f"{own['unigram_loss']:.2f}. Where it stays there for thousands of steps, the usual causes are too "
                "small a batch, no warm-up or too high a rate for a deep encoder, and many duplicates in the text.",
            )
        return Evaluation(
            metrics=metrics,
            scores=metrics | {"units": by_unit},
            tables=(_table(by_unit, self.ratios[1]),),
            predictions=self._records(split, outputs),
            remarks=remarks,
        )

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        values = {
            "encoder": dataclasses.asdict(self.encoder),
            "masking": dataclasses.asdict(self.masking),
            "ratios": self.ratios,
            "units": self.units,
        }
        files.write_json(workdir / TASK_FILE, {"task": self.name, **values})

    def _records(self, split: str, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row under the masks of the run's own unit: the hidden tokens, and what was guessed."""
        part = _parts(len(outputs["target"]), len(self.units))[self.units.index(self.masking.unit)]
        tokens_NT = self.held_out[split].arrays["tokens"][part]
        to_text = self.tokenizer.convert_ids_to_tokens
        for index, tokens_T in enumerate(tokens_NT):
            row = part.start + index
            there = outputs["target"][row] >= 0
            gold, guessed = outputs["target"][row][there], outputs["predicted"][row][there]
            yield {
                "row": index,
                "correct": bool((gold == guessed).all()),
                "text": self.tokenizer.decode(tokens_T[tokens_T != self.held_out[split].pad_id].tolist()),
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
    _check(config)
    data = open_pretraining(config.data, config.model.tokenizer, initial.tokenizer)
    tokenizer = load_tokenizer(data.tokenizer)
    encoder = initial.encoder
    if not initial.params:
        rows = _VOCABULARY_MULTIPLE * math.ceil(len(tokenizer) / _VOCABULARY_MULTIPLE)
        encoder = dataclasses.replace(encoder, vocab_size=rows)
    check_tokenizer(tokenizer, encoder.vocab_size, data.tokenizer, needs_mask=True)
    training = {"train": data.rows["train"]}
    vocabulary = masking.vocabulary_of(tokenizer, encoder.vocab_size)
    counts_V = data.token_counts(encoder.vocab_size)
    task = MaskedLMTask(
        encoder=encoder,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        masking=Masking(config.mask.unit, config.mask.mask_share, config.mask.random_share),
        ratios=(config.mask.ratio, config.mask.ratio if config.mask.final_ratio is None else config.mask.final_ratio),
        z_loss=config.mask.z_loss,
        units=tuple(dict.fromkeys((config.mask.unit, *config.mask.evaluate))),
        training=training,
        held_out={},
        baseline=Baseline.of(counts_V, vocabulary),
        notes=(*initial.notes, *data.notes),
    )
    held_out = {split: hide(task, rows) for split, rows in data.rows.items() if split != "train"}
    return dataclasses.replace(task, held_out=held_out)


def _check(config: Config) -> None:
    """Raises UserError for keys that contradict each other."""
    if config.mask.mask_share + config.mask.random_share > 1:
        raise UserError(
            f"config.mask.random_share: {config.mask.random_share} and mask_share {config.mask.mask_share} exceed 1 "
            "together."
        )
    for unit in config.mask.evaluate:
        if unit not in masking.UNITS:
            raise UserError(f"config.mask.evaluate: {unit!r}. {did_you_mean(unit, masking.UNITS)}")


def keep_head(task: MaskedLMTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the encoder and, where there is one, the vocabulary head."""
    del task
    return {name: value for name, value in initial.params.items() if not name.startswith("head/")}


def open_task(workdir: pathlib.Path, config: Config, source: str, split: str) -> MaskedLMTask:
    """Builds the task of a trained run over one split of (other) text, for evaluation."""
    values = files.read_json(workdir / TASK_FILE)
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    encoder = EncoderConfig(**values["encoder"])
    task = MaskedLMTask(
        encoder=encoder,
        tokenizer=tokenizer,
        vocabulary=masking.vocabulary_of(tokenizer, encoder.vocab_size),
        masking=Masking(**values["masking"]),
        ratios=tuple(values["ratios"]),
        z_loss=0.0,
        units=tuple(values["units"]),
        training={},
        held_out={},
        baseline=None,
        notes=(),
    )
    rows = open_split(dataclasses.replace(config.data, source=source), split, workdir / TOKENIZER_DIR)
    return dataclasses.replace(task, held_out={split: hide(task, rows)})


def open_predictor(workdir: pathlib.Path) -> Filler:
    """Returns what fills in masks with a trained run."""
    values = files.read_json(workdir / TASK_FILE)
    return Filler(EncoderConfig(**values["encoder"]), load_tokenizer(workdir / TOKENIZER_DIR))


# A filler knows all that an export needs.
open_exporter = open_predictor


def hide(task: MaskedLMTask, rows: Rows) -> ArrayRows:
    """Returns held-out rows once for each of the task's units, one after the other, hidden tokens as labels."""
    arrays = rows.take(np.arange(len(rows)))
    ratio = task.ratios[1]
    parts = []
    for unit in task.units:
        key = jax.random.fold_in(jax.random.key(_EVALUATION_SEED), masking.UNITS.index(unit))
        limit = masking.max_predictions(unit, ratio, rows.row_length)
        hidden = jax.jit(
            lambda tokens, segments, key=key, unit=unit, limit=limit: masking.mask_tokens(
                key,
                tokens,
                segments,
                task.vocabulary,
                dataclasses.replace(task.masking, unit=unit),
                ratio=ratio,
                limit=limit,
            )
        )(arrays["tokens"], arrays["segment_ids"])
        tokens, labels = jax.device_get(hidden)
        parts.append({**arrays, "tokens": np.asarray(tokens), "labels": np.asarray(labels)})
    return ArrayRows({name: np.concatenate([part[name] for part in parts]) for name in arrays}, rows.pad_id)


def _predict(model: MaskedLM, hidden_BTD: jax.Array, labels_BT: jax.Array, limit: int) -> dict[str, jax.Array]:
    """Returns arrays [B, P] over the first `limit` labelled tokens of each row; the vocabulary is seen only there."""
    places_BP, targets_BP = masking.target_places(labels_BT, limit)
    hidden_BPD = jnp.take_along_axis(hidden_BTD, places_BP[..., None], axis=1)
    logits_BPV = model.logits(hidden_BPD)
    weight_BP = (targets_BP >= 0).astype(jnp.float32)
    log_z_BP = jax.nn.logsumexp(logits_BPV, axis=-1)
    wanted_BP = jnp.take_along_axis(logits_BPV, jnp.maximum(targets_BP, 0)[..., None], axis=-1)[..., 0]
    predicted_BP = jnp.argmax(logits_BPV, axis=-1).astype(jnp.int32)
    return {
        "place": places_BP.astype(jnp.int32),
        "target": targets_BP,
        "predicted": predicted_BP,
        "right": (predicted_BP == targets_BP).astype(jnp.float32),
        "weight": weight_BP,
        "log_z": log_z_BP,
        "loss": (log_z_BP - wanted_BP) * weight_BP,
    }


def _parts(rows: int, units: int) -> list[slice]:
    each = rows // units
    assert each * units == rows, "one copy of the rows for each unit"
    return [slice(unit * each, (unit + 1) * each) for unit in range(units)]


def _scores(outputs: Mapping[str, np.ndarray], baseline: Baseline | None) -> dict[str, float]:
    there = outputs["target"] >= 0
    target = outputs["target"][there]
    loss = float(outputs["loss"][there].sum(dtype=np.float64) / max(len(target), 1))
    scores = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": float((outputs["predicted"][there] == target).mean()) if len(target) else math.nan,
        "targets": len(target),
    }
    if baseline is not None:
        scores["unigram_loss"] = float(-baseline.log_probs[target].mean()) if len(target) else math.nan
        scores["unigram_accuracy"] = float((target == baseline.top).mean()) if len(target) else math.nan
    return scores


def _table(by_unit: Mapping[str, Mapping[str, float]], ratio: float) -> Table:
    columns = ("unit", "loss", "perplexity", "accuracy", "unigram loss", "unigram accuracy", "targets")
    names = ("loss", "perplexity", "accuracy", "unigram_loss", "unigram_accuracy", "targets")
    rows = [(unit, *(scores.get(name) for name in names)) for unit, scores in by_unit.items()]
    return Table(f"Hidden tokens ({ratio:.0%} of the text, by unit)", columns, rows, formats={"perplexity": ",.1f"})
