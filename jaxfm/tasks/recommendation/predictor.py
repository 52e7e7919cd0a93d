"""A trained recommender: histories in, the next items out."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm import files
from jaxfm.core.model_card import CardPart
from jaxfm.errors import UserError
from jaxfm.hub.config_json import hf_config, missing_class
from jaxfm.hub.weights import write_tensors
from jaxfm.hub.whole_heads import with_whole_heads
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.recommendation.catalogue import Catalogue
from jaxfm.tasks.recommendation.ranking import rank_items
from jaxfm.tasks.recommendation.rows import AskedRows, asked_rows
from jaxfm.tasks.recommendation.spec import FIRST_ITEM, MASK, PAD, RecommendationSpec


@dataclasses.dataclass(frozen=True, eq=False)
class AskedHistories:
    """Histories as they were given, and those of them that can be asked about.

    Attributes:
      texts: as they are given back.
      known: of each the numbers of its items that the catalogue has.
      unknown: names that it does not have, each once.
      asked: which histories lie in `rows`, in their order.
      rows: packed.
    """

    texts: tuple[str, ...]
    known: tuple[np.ndarray, ...]
    unknown: tuple[tuple[str, ...], ...]
    asked: tuple[int, ...]
    rows: AskedRows


@dataclasses.dataclass(frozen=True)
class RecommendationPredictor:
    """Histories in, lists of items out (implements jaxfm.core.task.Predictor)."""

    spec: RecommendationSpec
    catalogue: Catalogue

    labels = ()
    records_at_once = 4096
    takes_words = False
    splitters = ()
    pairs = False

    def with_splitter(self, splitter: str) -> "RecommendationPredictor":
        """Never called: a history is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the first items of each user and their scores: see `rank_items`."""
        found = rank_items(model, batch, self.spec, self.spec.top)
        return {name: found[name] for name in ("items", "scores")}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> AskedHistories:
        """Reads the items of each text, in the order in which they were taken; unknown ones are passed over."""
        numbers, texts = self.catalogue.numbers(), tuple(str(record["text"]) for record in records)
        named = [[name for part in text.split(self.spec.separator) if (name := part.strip())] for text in texts]
        known = [np.asarray([numbers[name] for name in names if name in numbers], np.int32) for names in named]
        unknown = [tuple(dict.fromkeys(name for name in names if name not in numbers)) for names in named]
        asked = [number for number, taken in enumerate(known) if len(taken)]
        histories = [known[number] for number in asked]
        seen = [np.zeros(0, np.int32) if self.spec.repeats else np.unique(taken) for taken in histories]
        rows = asked_rows(self.spec, histories, [-1] * len(histories), seen)
        return AskedHistories(texts, tuple(known), tuple(unknown), tuple(asked), rows)

    def decode(self, encoded: AskedHistories, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a history.

        {"text", "items": [{"item", "score"}]}, the best first; a score is the model's logit. "unknown" are items that
        the catalogue does not have, where there are any. A history without any known item has no list.
        """
        lists: dict[int, list[dict[str, Any]]] = {}
        for number, (row, user, _) in zip(encoded.asked, encoded.rows.packed.example_locations.tolist(), strict=True):
            pairs = zip(outputs["items"][row, user].tolist(), outputs["scores"][row, user].tolist(), strict=True)
            lists[number] = [
                {"item": self.catalogue.items[item], "score": round(score, 4)}
                for item, score in pairs
                if np.isfinite(score)
            ]
        return [
            {"text": text, "items": lists.get(number, [])} | ({"unknown": list(unknown)} if unknown else {})
            for number, (text, unknown) in enumerate(zip(encoded.texts, encoded.unknown, strict=True))
        ]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the history, and its items in a line each."""
        found = [f"  {each['score']:8.3f}  {each['item']}" for each in result["items"]]
        if not found:
            found = ["  (no item of this history is known, so nothing is recommended)"]
        if "unknown" in result:
            found.append(f"  not known: {', '.join(result['unknown'])}")
        return [result["text"], *found]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "vocabulary")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForMaskedLM or AutoModelForCausalLM opens, and the catalogue beside it.

        There is no tokenizer: the number of an item is its place in items.json, plus 2.
        """
        if problem := self.hf_problem():
            raise UserError(problem)
        encoder, params = with_whole_heads(self.spec.encoder, params)
        config = hf_config(encoder, head="vocabulary", pad_token_id=PAD, labels=())
        files.write_json(folder / "config.json", {**config, "mask_token_id": MASK})
        write_tensors(folder / "model.safetensors", encoder, "vocabulary", params)
        self.catalogue.save(folder)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec = self.spec
        causal = spec.method == "causal"
        kind, end = ("CausalLM", "ids = ids[-LENGTH:]") if causal else ("MaskedLM", "ids = [*ids[1 - LENGTH:], 1]")
        code = (
            "import json\nimport torch\nfrom transformers import AutoModelFor"
            f"{kind}\n\n"
            'items = json.load(open("DIRECTORY/items.json"))["items"]\n'
            f'model = AutoModelFor{kind}.from_pretrained("DIRECTORY")\n'
            f"ids = [items.index(name) + {FIRST_ITEM} for name in [items[0], items[1]]]\n"
            f"{end.replace('LENGTH', str(spec.history))}\n"
            f"places = torch.arange({spec.history} - len(ids), {spec.history})[None]\n"
            "logits = model(input_ids=torch.tensor([ids]), position_ids=places).logits[0, -1]\n"
            f"print([items[i - {FIRST_ITEM}] for i in logits.argsort(descending=True)[:10] if i >= {FIRST_ITEM}])"
        )
        details = (
            f"Reads the last {spec.history} items of a history. Positions count from the end: the last one has "
            f"position {spec.history - 1}. What a user took already is to be left out of the list."
        )
        return CardPart("Recommender", "", f"Ranks {spec.items:,} items for a history of items.", code, details)
