"""A trained model of vectors over raw texts."""

# N texts, E embedding

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.hub.sentence_transformers import write_sentence_transformers
from jaxfm.models.embedder import Embedder
from jaxfm.tasks.asked_labels import Label, asked_labels
from jaxfm.tasks.embedding.explaining import EncodedPairs, encode_pairs, explained_similarities, similarities
from jaxfm.tasks.embedding.spec import EmbeddingSpec
from jaxfm.tasks.explaining import explained_arrays
from jaxfm.tasks.text_groups.encoding import DOCUMENT, ROLES, EncodedTexts, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHOWN = 6  # numbers of a vector for a person
_SHOWN_LABELS = 3
_DIGITS = 6
LABEL_PROMPT = "This text is about {}."  # what is read of a label


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records and the packed rows of their texts."""

    records: tuple[dict[str, str], ...]
    texts: EncodedTexts

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.texts.rows


@dataclasses.dataclass(frozen=True)
class EmbeddingPredictor:
    """Texts in, vectors out (implements Predictor, EmbedsTexts, ReadsLabels and ExplainsResults of core.task).

    Attributes:
      spec: of the model.
      tokenizer: of the run.
      calibration: that the run fitted.
      asked: labels that texts are compared with; empty: results have vectors instead.
      labels_CE: the vectors of these labels, once they are known.
    """

    spec: EmbeddingSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)
    asked: tuple[Label, ...] = ()
    labels_CE: np.ndarray | None = None

    records_at_once = 4096
    takes_words = False
    splitters = ()
    pairs = False
    fewest_labels = 2
    roles = ROLES

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that texts are compared with."""
        return tuple(label.name for label in self.asked)

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.spec.dimension

    @property
    def similarity(self) -> str:
        """How vectors are compared."""
        return self.spec.similarity

    def with_splitter(self, splitter: str) -> "EmbeddingPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def with_labels(self, labels: Sequence[str]) -> "EmbeddingPredictor":
        """Returns the same, which gives a text the label that is most similar to it (zero-shot classification).

        Of a label "NAME" `LABEL_PROMPT` is read, of "NAME: TEXT" all of it. Raises UserError for equal, empty or
        long ones.
        """
        asked = asked_labels(labels, lambda name: LABEL_PROMPT.replace("{}", name))
        found = dataclasses.replace(self, asked=asked, labels_CE=None)
        for label, is_cut in zip(asked, found._encoded_labels().cut.tolist(), strict=True):
            if is_cut:
                raise UserError(
                    f"--labels: the text of the label {label.name!r} is longer than the {self.spec.window} tokens that "
                    f"the model reads: {label.text[:60]!r}. Shorten it."
                )
        return found

    def _encoded_labels(self) -> EncodedTexts:
        return self.embedding_rows([label.text for label in self.asked], DOCUMENT)

    def label_rows(self) -> PackedRows:
        """See core.task.ReadsLabels."""
        return self._encoded_labels().rows

    def label_outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See EmbeddingSpec.outputs."""
        return self.outputs(model, batch)

    def with_label_outputs(self, outputs: Mapping[str, np.ndarray]) -> "EmbeddingPredictor":
        """Returns the same, which knows the vectors of its labels."""
        return dataclasses.replace(self, labels_CE=self.vectors(self._encoded_labels(), outputs))

    def outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See EmbeddingSpec.outputs."""
        return self.spec.outputs(model, batch)

    def embedding_rows(self, texts: Sequence[str], role: str) -> EncodedTexts:
        """Packs texts of a role, after its prompt."""
        return encode_texts(self.spec, self.tokenizer, texts, role)

    def vectors(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns f32 [N, E]."""
        return encoded.per_text(outputs["vectors"])

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """Packs {"text": ...} as documents."""
        kept = tuple({"text": str(record["text"])} for record in records)
        return EncodedRecords(kept, self.embedding_rows([record["text"] for record in kept], DOCUMENT))

    def decode(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the record with "vector", its numbers rounded to six digits; None for a text that is blank.

        With labels it has "label", the most similar one, its similarity "score" and those of all, "scores", in place of
        the vector. "truncated": true says that the end of the text was not read, as it did not fit the model's window.
        """
        vectors_NE = self.vectors(encoded.texts, outputs)
        results = []
        for record, vector_E, is_cut in zip(encoded.records, vectors_NE, encoded.texts.cut, strict=True):
            kept = {**record, **({"truncated": True} if is_cut else {})}
            is_blank = not record["text"].strip()
            if self.asked:
                results.append(kept | self._compared(None if is_blank else vector_E))
            else:
                found = None if is_blank else [round(float(value), _DIGITS) for value in vector_E]
                results.append({**kept, "vector": found})
        return results

    def _compared(self, vector_E: np.ndarray | None) -> dict[str, Any]:
        """Returns what a result says of labels; None is the vector of a blank text."""
        assert self.labels_CE is not None
        if vector_E is None:
            return {"label": None, "score": None, "scores": {}}
        similarity_C = (self.labels_CE @ vector_E).tolist()
        best = int(np.argmax(similarity_C))
        scores = {label: round(value, 4) for label, value in zip(self.labels, similarity_C, strict=True)}
        return {"label": self.labels[best], "score": scores[self.labels[best]], "scores": scores}

    explains_pairs = True

    def explain_problem(self) -> str:
        """Returns "": the similarity of two texts can be explained."""
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedPairs:
        """Packs {"text": ..., "pair": ...}, a query and a document; UserError without the second text."""
        for record in records:
            if "pair" not in record:
                raise UserError(
                    f"{record['text'][:60]!r}: a vector has no words of its own to explain, but the similarity of two "
                    'texts has: give the second one too (--pair="TEXT", or "pair" in JSON lines).'
                )
        return encode_pairs(self.spec, self.tokenizer, records)

    def explained_outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, 1]."""
        return explained_arrays(similarities(model(batch)), "")

    def explained(self, encoded: EncodedPairs, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what the similarity of each pair is due to."""
        return explained_similarities(self.spec, self.tokenizer, encoded, outputs["vectors"])

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, and the labels that are most similar or the first numbers of its vector."""
        if result.get("label", result.get("vector")) is None:
            return [result["text"], "  (no text)"]
        more = [f"  (longer than the {self.spec.window} tokens the model reads: its end is left out)"]
        if "label" in result:
            ranked = sorted(result["scores"].items(), key=lambda each: -each[1])[:_SHOWN_LABELS]
            cut = more if result.get("truncated") else []
            return [result["text"], *cut, *(f"  {score:+.3f}  {label}" for label, score in ranked)]
        numbers = " ".join(f"{value:+.3f}" for value in result["vector"][:_SHOWN])
        return [
            result["text"],
            *(more if result.get("truncated") else []),
            f"  {len(result['vector'])} numbers: {numbers} ...",
        ]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse: transformers has no class for the encoder alone; "" where it has."""
        return missing_class(self.spec.encoder, "")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what SentenceTransformer and AutoModel open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        spec = self.spec
        own = {name: value for name, value in params.items() if name.startswith("encoder/")}
        write_model(folder, spec.encoder, head="", params=own, tokenizer=self.tokenizer)
        write_sentence_transformers(
            folder,
            width=spec.encoder.hidden_size,
            pooling=spec.pooling,
            normalize=spec.normalize,
            prompts={role: spec.reading(role).prompt for role in ROLES},
            max_length=spec.window,
            similarity=spec.similarity,
            projection=params.get("projection/kernel"),
        )

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec = self.spec
        prompts = [f"{role}s begin with {spec.reading(role).prompt!r}" for role in ROLES if spec.reading(role).prompt]
        said = f" Of the texts, {' and '.join(prompts)}." if prompts else ""
        does = (
            f"Turns a text into a vector of {spec.dimension} numbers; texts that belong together have similar vectors "
            f"({'cosine' if spec.normalize else 'dot product'}).{said}"
        )
        code = (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("DIRECTORY")\n'
            'vectors = model.encode_query(["A question."]), model.encode_document(["A text.", "Another."])\n'
            "model.similarity(*vectors)"
        )
        reads = f"It reads at most {spec.window} tokens of a text; longer ones are cut."
        if spec.matryoshka:
            reads += f" The first {', '.join(map(str, spec.matryoshka))} numbers are vectors as well."
        return CardPart("Sentence embeddings", "sentence-similarity", does, code, reads)
