"""A trained classifier of texts and pairs of texts: what it is beside its weights, raw text to classes or numbers."""

# B batch, T tokens, S segments (examples in a row), C classes, E examples

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities
from jaxfm.families.registry import family
from jaxfm.hub.export import write_model
from jaxfm.models.heads import SequenceClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# transformers' name of what jaxfm's `config.classification.kind` names.
_PROBLEM_TYPES = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


@dataclasses.dataclass(frozen=True)
class ClassifierSpec:
    """All that a trained classifier is beside its weights; kept in task.json.

    Attributes:
      kind: "single", "multi" or "regression" (`config.classification.kind`).
      labels: name of each class; of the one number for regression.
      encoder: shape of the encoder.
      pooling: "cls" or "mean".
      pairs: whether an example has two texts.
      row_length: tokens a packed row.
      window: longest example in tokens; longer ones are cut.
      segments: most examples a row, S.
      threshold: multi: probability from which a label holds.
    """

    kind: str
    labels: tuple[str, ...]
    encoder: EncoderConfig
    pooling: str
    pairs: bool
    row_length: int
    window: int
    segments: int
    threshold: float

    def make_model(
        self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True, remat: str = "none"
    ) -> SequenceClassifier:
        """Builds encoder and head."""
        return SequenceClassifier(
            self.encoder,
            len(self.labels),
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            dtype=dtype,
            scan=scan,
            remat=remat,
        )

    def label_shape(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of the targets of one row."""
        if self.kind == "regression":
            return (self.segments,), np.dtype(np.float32)
        return (self.segments, *((len(self.labels),) if self.kind == "multi" else ())), np.dtype(np.int32)

    def outputs(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits or numbers, f32 [B, S, C]."""
        return {"outputs": model(batch)}


def there(segment_ids_BT: jax.Array, segments: int) -> jax.Array:
    """Returns which segments [B, S] a row has."""
    return jnp.arange(segments) < segment_ids_BT.max(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """Examples as packed rows.

    Attributes:
      rows: what is computed.
      cut: bool [E], which examples were longer than the window, so that their ends are not read.
    """

    rows: PackedRows
    cut: np.ndarray

    def per_example(self, values_NSC: np.ndarray) -> np.ndarray:
        """Returns the value [E, ...] of each example, in the order they were given."""
        return values_NSC[self.rows.example_locations[:, 0], self.rows.example_locations[:, 1]]


def tokenize(
    model: ClassifierSpec, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[tuple[str, str | None]]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Returns pieces and token types of each example, special tokens included, and bool [E]: which had to be cut.

    Of a pair the longer text loses tokens first (as transformers' "longest_first").
    """
    tokens: list[np.ndarray] = []
    types: list[np.ndarray] = []
    cut: list[bool] = []
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        chunk = texts[first : first + _TEXTS_PER_CALL]
        batch = tokenizer(
            [text for text, _ in chunk],
            [pair or "" for _, pair in chunk] if model.pairs else None,
            truncation="longest_first",
            max_length=model.window,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        for encoding in batch.encodings or ():
            tokens.append(np.asarray(encoding.ids, np.int32))
            types.append(
                np.asarray(encoding.type_ids, np.int32) if model.encoder.type_vocab_size > 1 else 0 * tokens[-1]
            )
            cut.append(bool(encoding.overflowing))
    return tokens, types, np.asarray(cut, bool)


def encode(
    model: ClassifierSpec,
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[tuple[str, str | None]],
    targets: np.ndarray | None = None,
    seed: int | None = None,
    tokenized: Any = None,
) -> EncodedExamples:
    """Tokenizes and packs; with a seed the examples are shuffled before packing (training).

    Args:
      model: says how long rows and examples may be.
      tokenizer: of the weights.
      texts: text and second text (None: there is none) of each example.
      targets: [E] class numbers (single) or numbers (regression), [E, C] 0 or 1 (multi); None: not known.
      seed: of the order.
      tokenized: what `tokenize` gives for the texts, where that is known already.
    """
    tokens, types, cut = tokenize(model, tokenizer, texts) if tokenized is None else tokenized
    if targets is None:
        (_, *tail), kind = model.label_shape()
        targets = np.full((len(texts), *tail), -1, kind)
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    rows = build_rows(tokens, targets, model.row_length, pad_id, seed, max_segments=model.segments, type_ids=types)
    return EncodedExamples(rows, cut)


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records and the packed rows of their texts."""

    records: tuple[dict[str, str], ...]
    examples: EncodedExamples

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.examples.rows


@dataclasses.dataclass(frozen=True)
class ClassifierPredictor:
    """Texts in, classes or numbers out (implements Predictor and Exporter of jaxfm.core.task)."""

    model: ClassifierSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 4096
    takes_words = False

    @property
    def pairs(self) -> bool:
        """Whether a record has two texts."""
        return self.model.pairs

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.model.encoder

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.model.labels

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True) -> SequenceClassifier:
        """Builds encoder and head."""
        return self.model.make_model(rngs, dtype=dtype, scan=scan)

    def outputs(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ClassifierSpec.outputs."""
        return self.model.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """Packs {"text": ...}, or {"text": ..., "pair": ...} where the model judges pairs.

        Raises:
          UserError: a second text that is missing, or that the model has no use for.
        """
        kept = tuple({name: str(record[name]) for name in ("text", "pair") if name in record} for record in records)
        for record in kept:
            if ("pair" in record) != self.model.pairs:
                rule = (
                    'judges pairs: give the second text too (--pair, a tab between them, or "pair" in JSON lines)'
                    if self.model.pairs
                    else "judges single texts: leave the second one out"
                )
                raise UserError(f"{record['text'][:60]!r}: this model {rule}.")
        texts = [(record["text"], record.get("pair")) for record in kept]
        return EncodedRecords(kept, encode(self.model, self.tokenizer, texts))

    def decode(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the record with "label", "score" and all "scores", with "labels" and "scores", or with "value".

        A record without text (blank) has none: its label, score and value are None, its labels and scores empty.
        "truncated": true says that the end of the text (or texts) was not read, as it did not fit the model's window.
        Scores are probabilities, calibrated on the validation split of the run where it had one.
        """
        outputs_EC = encoded.examples.per_example(outputs["outputs"])
        blank = [not any(text.strip() for text in record.values()) for record in encoded.records]
        records = [
            {**record, **({"truncated": True} if is_cut else {})}
            for record, is_cut in zip(encoded.records, encoded.examples.cut, strict=True)
        ]
        if self.model.kind == "regression":
            return [
                {**record, "value": None if empty else round(float(value), 4)}
                for record, value, empty in zip(records, outputs_EC[:, 0], blank, strict=True)
            ]
        results = []
        found = probabilities(outputs_EC, self.calibration, self.model.kind)
        for record, row, empty in zip(records, found, blank, strict=True):
            if empty:
                nothing = {"label": None, "score": None} if self.model.kind == "single" else {"labels": []}
                results.append({**record, **nothing, "scores": {}})
                continue
            scores = {label: round(float(score), 4) for label, score in zip(self.labels, row, strict=True)}
            if self.model.kind == "single":
                best = int(np.argmax(row))
                found = {"label": self.labels[best], "score": scores[self.labels[best]]}
            else:
                found = {
                    "labels": [label for label, p in zip(self.labels, row, strict=True) if p >= self.model.threshold]
                }
            results.append({**record, **found, "scores": scores})
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text or texts, then what was found: likeliest classes, the labels that hold, or the number."""
        texts = [result["text"], *([result["pair"]] if "pair" in result else [])]
        if not any(text.strip() for text in texts):
            return [*texts, "  (no text)"]
        if result.get("truncated"):
            texts.append(f"  (longer than the {self.model.window} tokens the model reads: its end is left out)")
        if "value" in result:
            return [*texts, f"  {self.labels[0]} {result['value']:.3f}"]
        ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
        if "label" in result:
            shown = ranked[:3]
        else:
            shown = [(label, score) for label, score in ranked if label in result["labels"]]
        return [*texts, *([f"  {score:.3f}  {label}" for label, score in shown] or ["  (no label)"])]

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForSequenceClassification and AutoTokenizer open.

        Raises:
          UserError: a mean over tokens, where transformers' class of the family has the first token's vector only.
        """
        model = self.model
        pooling_key = family(model.encoder.family).heads["sequence_classes"].pooling_key
        if model.pooling == "mean" and not pooling_key:
            raise UserError(
                f"--format=hf: transformers' ForSequenceClassification of family {model.encoder.family!r} reads the "
                "first token's vector, but this run was trained with config.classification.pooling=mean. Train with "
                "pooling=cls to export, or use jaxfm.predict."
            )
        extra = {"problem_type": _PROBLEM_TYPES[model.kind]} | ({pooling_key: model.pooling} if pooling_key else {})
        write_model(
            folder,
            model.encoder,
            head="sequence_classes",
            params=params,
            tokenizer=self.tokenizer,
            labels=model.labels,
            extra=extra,
        )
