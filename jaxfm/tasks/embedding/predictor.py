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
from jaxfm.tasks.embedding.explaining import EncodedPairs, encode_pairs, explained_similarities, similarities
from jaxfm.tasks.embedding.spec import EmbeddingSpec
from jaxfm.tasks.explaining import explained_arrays
from jaxfm.tasks.text_groups.encoding import DOCUMENT, ROLES, EncodedTexts, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHOWN = 6  # numbers of a vector for a person
_DIGITS = 6


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
    """Texts in, vectors out (implements Predictor, EmbedsTexts and ExplainsResults of core.task).

    Attributes:
      spec: of the model.
      tokenizer: of the run.
      calibration: that the run fitted.
    """

    spec: EmbeddingSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 4096
    takes_words = False
    splitters = ()
    labels = ()
    pairs = False
    roles = ROLES

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

        "truncated": true says that the end of the text was not read, as it did not fit the model's window.
        """
        vectors_NE = self.vectors(encoded.texts, outputs)
        results = []
        for record, vector_E, is_cut in zip(encoded.records, vectors_NE, encoded.texts.cut, strict=True):
            found = [round(float(value), _DIGITS) for value in vector_E] if record["text"].strip() else None
            results.append({**record, **({"truncated": True} if is_cut else {}), "vector": found})
        return results

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
        """Returns the text and the first numbers of its vector."""
        if result["vector"] is None:
            return [result["text"], "  (no text)"]
        more = [f"  (longer than the {self.spec.window} tokens the model reads: its end is left out)"]
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
