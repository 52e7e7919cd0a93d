"""A trained model of a vector a token over raw texts: how well a document fits a query."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.evaluation.maxsim import maxsim
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.hub.multi_vector import write_multi_vector
from jaxfm.models.token_embedder import TokenEmbedder
from jaxfm.tasks.late_interaction.spec import LateInteractionSpec, token_vectors
from jaxfm.tasks.text_groups.encoding import DOCUMENT, QUERY, ROLES, EncodedTexts, encode_texts, pack_texts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """Records and the packed rows of their texts: all queries, then all documents."""

    records: tuple[dict[str, str], ...]
    texts: EncodedTexts

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.texts.rows


@dataclasses.dataclass(frozen=True)
class LateInteractionPredictor:
    """Pairs of a query and a document in, their similarity out (implements core.task.Predictor and EmbedsTokens)."""

    spec: LateInteractionSpec
    tokenizer: "PreTrainedTokenizerFast"

    records_at_once = 1024
    takes_words = False
    splitters = ()
    labels = ()
    pairs = True
    roles = ROLES

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.spec.dimension

    def embedding_rows(self, texts: Sequence[str], role: str) -> EncodedTexts:
        """Packs texts of a role."""
        return encode_texts(self.spec, self.tokenizer, texts, role)

    def token_vectors(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray], role: str) -> list[np.ndarray]:
        """Returns the vectors f32 [L, P] of the tokens of each text that are compared."""
        return token_vectors(self.spec, encoded, outputs, len(encoded.rows.example_locations) if role == QUERY else 0)

    def with_splitter(self, splitter: str) -> "LateInteractionPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: TokenEmbedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See LateInteractionSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedPairs:
        """Packs {"text": a query, "pair": a document}."""
        kept = tuple({"text": str(record["text"]), "pair": str(record["pair"])} for record in records)
        parts = [
            tokenize(self.tokenizer, [record[name] for record in kept], self.spec.reading(role))
            for name, role in (("text", QUERY), ("pair", DOCUMENT))
        ]
        rows = pack_texts(self.spec, self.tokenizer, [text for found, _ in parts for text in found])
        return EncodedPairs(kept, EncodedTexts(rows, np.concatenate([cut for _, cut in parts])))

    def decode(self, encoded: EncodedPairs, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the record with "score", its MaxSim; None where a text is blank.

        "truncated": true says that the end of a text was not read.
        """
        count = len(encoded.records)
        vectors = token_vectors(self.spec, encoded.texts, outputs, count)
        results = []
        for number, record in enumerate(encoded.records):
            cut = bool(encoded.texts.cut[number] or encoded.texts.cut[count + number])
            score = round(maxsim(vectors[number], vectors[count + number]), 4)
            blank = not record["text"].strip() or not record["pair"].strip()
            results.append({**record, **({"truncated": True} if cut else {}), "score": None if blank else score})
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns both texts and the similarity."""
        score = "no text" if result["score"] is None else f"{result['score']:.4f}"
        cut = ["  (a text is longer than the model reads: its end is left out)"] if result.get("truncated") else []
        return [result["text"], f"  {result['pair']}", *cut, f"  MaxSim {score}"]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what MultiVectorEncoder and AutoModel open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        own = {name: value for name, value in params.items() if name.startswith("encoder/")}
        write_model(folder, self.spec.encoder, head="", params=own, tokenizer=self.tokenizer)
        write_multi_vector(
            folder,
            projection=params["projection/kernel"],
            prompts={role: self.spec.reading(role).prompt for role in ROLES},
            lengths={role: self.spec.reading(role).length for role in ROLES},
            expansion=self.spec.query_expansion,
            skipped=self.tokenizer.convert_ids_to_tokens(list(self.spec.skipped)),
        )

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec = self.spec
        code = (
            "from sentence_transformers import MultiVectorEncoder\n\n"
            'model = MultiVectorEncoder("DIRECTORY")\n'
            'queries, documents = model.encode_query(["A question."]), model.encode_document(["A text.", "Another."])\n'
            "model.similarity(queries, documents)"
        )
        does = (
            f"Turns a text into a vector of {spec.dimension} numbers for each token. A document fits a query by "
            "MaxSim: of each token of the query the most similar one of the document, summed."
        )
        reads = (
            f"Queries begin with {spec.query_prompt!r}, documents with {spec.document_prompt!r}. It reads "
            f"{spec.query_length} tokens of a query and {spec.document_length} of a document; longer ones are cut."
        )
        if spec.query_expansion != "none":
            reads += " Shorter queries are filled up with mask tokens, which are compared as well."
        if spec.skipped:
            skipped = " ".join(self.tokenizer.convert_ids_to_tokens(list(spec.skipped)))
            reads += f" Of documents these tokens are not compared: {skipped}."
        return CardPart("Late interaction", "sentence-similarity", does, code, reads)
