"""A trained run as a Python object: texts in, results, vectors or scores of pairs out."""

import dataclasses
import itertools
import pathlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.batch import Dataset, Units
from jaxfm.core.build import Build
from jaxfm.core.reads_files import ReadsFiles
from jaxfm.core.task import (
    DrawsPictures,
    EmbedsTexts,
    EmbedsTokens,
    ExplainsResults,
    Predictor,
    ReadsEntities,
    ReadsImages,
    ReadsNeighbours,
    ScoresPairs,
)
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.data.text.short_rows import short_row
from jaxfm.errors import UserError
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import image_input, model_options
from jaxfm.programs.explanations import Explainer
from jaxfm.programs.model_exits import open_exits
from jaxfm.programs.model_options import RUN_WORDS
from jaxfm.training.early_exit import Layers
from jaxfm.training.ensemble import make_ensemble, open_members
from jaxfm.training.evaluation import Evaluator, bucket
from jaxfm.training.session import compute_dtype

_LISTED = 12  # labels in a repr
_BLANK = {"text": "", "origin": "between two requests"}
COLUMNS = ("text_column", "pair_column", "words_column")

Text = str | tuple[str, str] | Mapping[str, Any]
"""A text, a pair of texts, or a record: {"text": ...}, also with "pair", with "tokens" (words) beside it or alone, and
with the entities that a model relates ("head" and "tail", or "entities").
"""


class Model:
    """A trained run, loaded: call it with texts as often as you like, also from several threads.

    A folder of several runs (`train.seeds`, `jaxfm.seeds`) is an ensemble: it answers by the mean of their calibrated
    probabilities, and says by "spread" how far they lie apart.

    Attributes:
      workdir: the run directory, or the folder.
      task: name of its task.
      labels: class names of its head, empty where the head has none.
      step: whose checkpoint it is.
      exit_note: of a model with early heads, a sentence that says from when on inputs leave; else "".
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        words: str = RUN_WORDS,
        entities: str | pathlib.Path | None = None,
        labels: Sequence[str] = (),
        precision: str = "",
        exit: float | str | None = None,
        writing: model_options.Writing = model_options.AS_TRAINED,
    ):
        """Restores the run's chosen checkpoint; UserError when there is none. `words`, `entities`: the program's flags.

        `entities` is a run that finds the entities of each text, for a model that relates entities. `labels` are the
        classes that inputs are compared with, for a model that compares them with any texts. `precision` of activations
        is "f32", "bf16" or, where it is empty, that of the run. `exit`, of a run with early heads, is the confidence
        from which an input leaves, "never", or None for the run's own. `writing`: how a model that writes does so.
        """
        self.workdir = files.user_path(workdir, "--workdir")
        with libraries_quieted():
            runs = open_members(self.workdir)
            run, several = runs[0], len(runs) > 1
            self._ensemble = make_ensemble(self.workdir, runs) if several else None
            predictor = run.predictor() if self._ensemble is None else self._ensemble.predictor
            self._finder = None if entities is None else _finder(predictor, entities, words)
            predictor = predictor if self._finder else model_options.split_by(predictor, words)
            predictor = model_options.writing_as(model_options.labelled(predictor, labels), writing)
            config = run.config
            self._mesh = make_mesh(MeshConfig())
            build = Build(compute_dtype(precision or config.train.precision))
            # The parameters of all members of an ensemble lie on the devices; one program computes with each in turn.
            self._members = tuple(each.restore(self._mesh, build) for each in runs)
            self._restored = self._members[0]
            self._predictor = model_options.with_label_vectors(
                predictor, self._restored, self._mesh, config.eval.batch_size
            )
            self._exits, self.exit_note = open_exits(runs, self._restored, self._mesh, config.eval.batch_size, exit)
        self.task, self.labels = config.task.name, self._predictor.labels
        self._run, self.step, self._batch_size = run, self._restored.step, config.eval.batch_size
        self._trained = {name: getattr(config.data, name) for name in (*COLUMNS, "label_column")}
        # One compiled function a batch size: small calls must not pay for a large batch.
        self._evaluators: dict[int, Evaluator] = {}
        self._explainer: Explainer | None = None
        self._units = Units()
        # Tokenizers are not safe to call from two threads at once: they set their truncation anew at each call.
        self._one_at_a_time = threading.Lock()

    def __repr__(self) -> str:
        more = f" and {len(self.labels) - _LISTED} more" if len(self.labels) > _LISTED else ""
        listed = f"{', '.join(self.labels[:_LISTED])}{more}" if self.labels else "none"
        where = f"step {self.step}" if self._ensemble is None else f"an ensemble of {len(self._members)}"
        return f"<jaxfm.Model: {self.task}, labels: {listed}; {where} of {str(self.workdir)!r}>"

    @property
    def predictor(self) -> Predictor:
        """What turns its inputs into rows, and outputs into results."""
        return self._predictor

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        return self._predictor.pairs

    @property
    def wanted(self) -> Wanted:
        """What it reads."""
        if self._finder is not None:
            return self._finder.wanted
        fields = model_options.record_fields(self._predictor)
        return Wanted(self._predictor.pairs, self._predictor.takes_words, trained=self._trained, fields=fields)

    @property
    def wanted_explained(self) -> Wanted:
        """What it reads of a record that is to be explained; of an embedding two texts, whose similarity is."""
        if not isinstance(self._predictor, ExplainsResults):
            return self.wanted
        return dataclasses.replace(self.wanted, pairs=self._predictor.explains_pairs)

    @overload
    def __call__(self, texts: str | Mapping[str, Any]) -> dict[str, Any]: ...

    @overload
    def __call__(self, texts: Iterable[Text]) -> list[dict[str, Any]]: ...

    def __call__(self, texts: Text | Iterable[Text]) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the result of one text (a str or a record), or a list of one result each of several.

        Several are any iterable: a list, a tuple, a generator, a NumPy array, a pandas Series, a column of a data set.
        A pair of texts, (text, pair), stands in a list: [("A text.", "Another.")].
        NER: {"text", "entities": [{"type", "text", "start", "end", "score"}]}; classification: {"text", "label", ...}.
        Relations: {"text", "head", "tail", "label", "score", "scores"}, of entities {"text", "entities", "triples"}.
        An image is a path, the bytes of a file, an array uint8 [H, W, C], a picture of Pillow, or {"image": of these}.

        Raises:
          UserError: what is no text ("text 3: ..."), a pair where the model judges single texts or the other way round.
        """
        if self.reads_images and image_input.is_one_image(texts):
            return next(self.stream([self.record(texts, "the text")]))
        if getattr(texts, "shape", None) == ():  # one text as a NumPy array without axes
            texts = texts.item()  # type: ignore[union-attr]
        if isinstance(texts, str | Mapping):
            return next(self.stream([self.record(texts, "the text")]))
        if isinstance(texts, bytes) or hasattr(texts, "columns") or not isinstance(texts, Iterable):
            raise UserError(f"a {type(texts).__name__} is neither a text nor a list of texts (such as one column).")
        return list(self.stream(self.record(text, f"text {number}") for number, text in enumerate(texts, start=1)))

    def record(self, text: Any, origin: str, *, explained: bool = False) -> dict[str, Any]:
        """Returns the record of a text, a pair, an image, or what else `__call__` takes for one.

        `explained`: it is to be explained, for which some models take two texts where they else take one. Raises
        UserError, which begins with `origin`, for what is none.
        """
        accepted = self.wanted_explained if explained else self.wanted
        is_text = isinstance(text, str) or (isinstance(text, Mapping) and "image" not in text)
        if isinstance(self._predictor, ReadsFiles):
            return self._predictor.record_of(text, origin.replace("text", "file"))
        if self.reads_images and not (is_text and self.reads_texts):
            return image_input.image_record(text, origin.replace("text", "image"))
        if isinstance(text, Mapping):
            record = model_options.named_fields(text, accepted)
        elif isinstance(text, tuple | list) and len(text) == 2:
            record = {"text": text[0], "pair": text[1]}
        else:
            record = {"text": text}
        # NumPy's strings are strings, but not ones that everybody writes as JSON.
        record = {name: str(value) if isinstance(value, str) else value for name, value in record.items()}
        return source_unlabelled.check_record({**record, "origin": origin}, accepted)

    def stream(self, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields one result a record ({"text": ...}, or with "pair"), in order, as many at a time as the task says.

        An "id" of a record is copied to its result.
        """
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            for record, result in zip(chunk, self._predict(chunk), strict=True):
                named = {"id": record["id"]} if "id" in record else {}
                yield named | result

    def answer_all(self, requests: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[dict[str, Any]]]:
        """Returns the results of each request (records as of `record`), which are computed together.

        Requests do not see each other: where a model reads neighbouring records, a blank one stands between them.
        """
        joined, places = list[Mapping[str, Any]](), list[range]()
        for request in requests:
            if joined and self._reads_neighbours:
                joined.append(_BLANK)
            places.append(range(len(joined), len(joined) + len(request)))
            joined += request
        found = list(self.stream(joined))
        return [[found[number] for number in each] for each in places]

    @property
    def _reads_neighbours(self) -> bool:
        models = (self, *(() if self._finder is None else (self._finder,)))
        return any(isinstance(each._predictor, ReadsNeighbours) and each._predictor.reads_neighbours for each in models)

    @property
    def records_at_once(self) -> int:
        """Records that are computed together."""
        return self._predictor.records_at_once

    @property
    def embeds_texts(self) -> bool:
        """Whether a text becomes a vector."""
        return isinstance(self._predictor, EmbedsTexts)

    @property
    def embeds(self) -> EmbedsTexts:
        """How it makes vectors of texts; UserError where it makes none."""
        if not isinstance(self._predictor, EmbedsTexts):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which makes no vectors of texts.")
        return self._predictor

    def embed(self, texts: Iterable[str], role: str = "") -> np.ndarray:
        """Returns the vectors of texts, f32 [N, D]; for more texts than fit into memory see `embed_stream`.

        `role` is "query" or "document" (the default): texts of the two may have different prompts.

        Raises:
          UserError: a model that makes no vectors, an unknown role, what is not a text.
        """
        if isinstance(texts, str):
            raise UserError("embed: is given one text; give a list of texts.")
        parts = list(self.embed_stream(texts, role))
        return np.concatenate(parts) if parts else np.zeros((0, self.embeds.dimension), np.float32)

    def embed_stream(self, texts: Iterable[str], role: str = "") -> Iterator[np.ndarray]:
        """Yields the vectors of texts in portions, f32 [n, D], in order."""
        embeds = self.embeds
        role = model_options.role_of(role, embeds.roles)
        for chunk in model_options.portions(texts, self.records_at_once):
            with self._one_at_a_time:
                encoded = embeds.embedding_rows(chunk, role)
                yield embeds.vectors(encoded, self._outputs(encoded.rows))

    def embed_images(self, images: Iterable[Any]) -> np.ndarray:
        """Returns the vectors of images, f32 [N, D].

        Raises UserError for a model that makes no vectors, or reads no images, and for what is not an image.
        """
        embeds = self.embeds
        if not self.reads_images:
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which reads no images.")
        records = (image_input.image_record(each, f"image {number}") for number, each in enumerate(images, start=1))
        parts = (embeds.vectors(encoded, outputs) for encoded, outputs in self._computed(self._predictor, records))
        return np.concatenate([np.zeros((0, embeds.dimension), np.float32), *parts])

    @property
    def compares_tokens(self) -> bool:
        """Whether a text becomes a vector a token, compared by MaxSim."""
        return isinstance(self._predictor, EmbedsTokens)

    @property
    def embeds_tokens(self) -> EmbedsTokens:
        """How it makes a vector of each token of a text; UserError where it makes none."""
        if not isinstance(self._predictor, EmbedsTokens):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which makes no vectors of tokens.")
        return self._predictor

    def embed_tokens(self, texts: Iterable[str], role: str = "") -> list[np.ndarray]:
        """Returns f32 [L, D] of each text, the vectors of its tokens that are compared by MaxSim.

        `role` is "query" or "document" (the default).

        Raises:
          UserError: a model that makes no such vectors, an unknown role, what is not a text.
        """
        if isinstance(texts, str):
            raise UserError("embed_tokens: is given one text; give a list of texts.")
        embeds, found = self.embeds_tokens, list[np.ndarray]()
        role = model_options.role_of(role, embeds.roles)
        for chunk in model_options.portions(texts, self.records_at_once):
            with self._one_at_a_time:
                encoded = embeds.embedding_rows(chunk, role)
                found += embeds.token_vectors(encoded, self._outputs(encoded.rows), role)
        return found

    def pair_scores(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Returns how well the two texts of each pair go together, f64 [N], the higher the better.

        Of a regression that is its number, of two classes the probability of the last one. Raises UserError for a model
        whose pairs have no one score.
        """
        if not isinstance(self._predictor, ScoresPairs):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which does not score pairs of texts.")
        if problem := self._predictor.pair_score_problem():
            raise UserError(f"{self.workdir}: {problem}")
        scores, records = self._predictor.pair_scores, ({"text": text, "pair": pair} for text, pair in pairs)
        parts = (scores(encoded, outputs) for encoded, outputs in self._computed(self._predictor, records))
        return np.concatenate([np.zeros(0), *parts])

    def rank(self, query: str, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Returns {"index", "text", "score"} of each text, the most similar to the query first.

        Raises UserError for a model that makes no vectors of texts.
        """
        roles, similarity = self.embeds.roles, self.embeds.similarity
        query_D = self.embed([query], roles[0])[0]
        scores_N = self.embed(texts) @ query_D
        assert similarity in ("cosine", "dot"), similarity  # of vectors of length 1 both are the product
        order = np.argsort(-scores_N, kind="stable").tolist()
        return [{"index": each, "text": texts[each], "score": round(float(scores_N[each]), 4)} for each in order]

    @property
    def explains(self) -> bool:
        """Whether `explain` can say which words the result of a record is due to."""
        predictor = self._predictor
        if self._ensemble is not None or self.reads_images or not isinstance(predictor, ExplainsResults):
            return False
        return predictor.explains_pairs == self.pairs and not predictor.explain_problem()

    def explain(self, text: Any) -> dict[str, Any]:
        """Returns {"result", "targets"}: which words each part of a text's result is due to (integrated gradients).

        A target has what it is of the result ("label", or "start", "end" and "type"), the model's own "probability" or
        "score" with all words and "without" them (each in its place a token that means nothing), "words" of which each
        has a "share" of the difference, and "alternatives" (what else it might be, with probabilities).

        Raises:
          UserError: a model whose results are not explained; what is no text.
        """
        explainer = self.explainer
        record = (
            text if isinstance(text, Mapping) and "origin" in text else self.record(text, "the text", explained=True)
        )
        with self._one_at_a_time:
            return explainer.one(record)

    @property
    def explainer(self) -> Explainer:
        """What explains its results; UserError where they are not explained."""
        if self._ensemble is not None:
            raise UserError(
                f"{self.workdir}: is an ensemble of {len(self._members)} runs; explain a result of one: "
                f"--workdir={self._run.workdir}."
            )
        if self._explainer is None:
            made = (self._predictor, self._restored, self._outputs, self._mesh, self._batch_size)
            self._explainer = Explainer(f"{self.workdir}: results of the task {self.task}", *made)
        return self._explainer

    @property
    def layers(self) -> Layers | None:
        """How many layers inputs have taken so far; None where all of them take all."""
        return None if self._exits is None else self._exits.layers

    @property
    def units(self) -> Units:
        """What it has computed so far: tokens (or patches) of rows, and those of them that are no padding."""
        return self._units

    def warm(self, rows: int) -> Iterator[str]:
        """Compiles the programs of 1, 2, 4, ... rows, up to `rows` or a batch, by using them; yields what is done next.

        Texts are of so many words that each fills about a row; single ones are of fewer too (see `short_row`).
        """
        if self._exits is not None:
            yield from self._exits.warm(rows)
            return
        length = self._run.config.data.row_length if self.reads_texts else 1
        sizes, size = [1], 2
        while size <= min(rows, self._batch_size):
            sizes.append(size)
            size *= 2
        shorter = [4 << power for power in range(16) if 4 << power < length]
        for count, words in [*((1, words) for words in shorter), *((size, length) for size in sizes)]:
            yield f"compiling for {count} x {words} words"
            try:
                example = model_options.example_record(self._predictor, words)
                self.answer_all([[self.record(example, "an example")] * count])
            except UserError:  # a task that reads more than a text: its programs are compiled when they are needed
                return

    def fingerprint(self) -> str:
        """Returns a hash of the weights, the spec and the tokenizer: of all that a vector of a text depends on."""
        return "-".join(self._run.fingerprint(each) for each in self._members)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns a result as lines for a person."""
        return self._predictor.lines(result)

    @property
    def reads_images(self) -> bool:
        """Whether a record may be an image."""
        return isinstance(self._predictor, ReadsImages)

    @property
    def reads_texts(self) -> bool:
        """Whether a record may be a text."""
        return model_options.reads_texts(self._predictor)

    @property
    def reads_files(self) -> ReadsFiles | None:
        """How it reads files that are its records; None: its records are texts or images."""
        return self._predictor if isinstance(self._predictor, ReadsFiles) else None

    def pictures(self, inputs: Iterable[Any]) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields what the model makes of each input, heading -> pixels uint8 [H, W, C].

        Of a classifier of images: what its last layer attends to; of masked pretraining: hidden patches as it predicts
        them; of image generation, whose inputs are names of classes: the images that it makes. Raises UserError for a
        model that makes no pictures.
        """
        if not isinstance(self._predictor, DrawsPictures):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which makes no pictures.")
        drawing = self._predictor.with_pictures()
        what = "image" if self.reads_images else "text"
        records = (self.record(each, f"{what} {number}") for number, each in enumerate(inputs, start=1))
        for encoded, outputs in self._computed(drawing, records):
            yield from self._predictor.pictures(encoded, outputs)

    def _predict(self, chunk: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if self._finder is not None:
            found = self._finder._predict(chunk)
            chunk = [
                {"origin": record.get("origin", "a record"), "text": result["text"], "entities": result["entities"]}
                for record, result in zip(chunk, found, strict=True)
            ]
        with self._one_at_a_time:
            encoded = self._predictor.encode(chunk)
            if self._exits is None:
                return self._predictor.decode(encoded, self._outputs(encoded.rows))
            outputs, units = self._exits.outputs(encoded)
            self._units = Units(self._units.computed + units.computed, self._units.useful + units.useful)
            return self._predictor.decode(encoded, outputs)

    def _computed(
        self, predictor: Predictor, records: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[Any, Mapping[str, np.ndarray]]]:
        """Yields portions of records, encoded, with what the model computes of them."""
        evaluators = self._evaluators if predictor is self._predictor else dict[int, Evaluator]()
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, predictor.records_at_once)):
            with self._one_at_a_time:
                encoded = predictor.encode(chunk)
                outputs = self._evaluate(predictor, evaluators, encoded.rows)
            yield encoded, outputs

    def _outputs(self, rows: Dataset) -> Mapping[str, np.ndarray]:
        return self._evaluate(self._predictor, self._evaluators, rows)

    def _evaluate(
        self, predictor: Predictor, evaluators: dict[int, Evaluator], rows: Dataset
    ) -> Mapping[str, np.ndarray]:
        rows = short_row(rows)
        size = bucket(self._batch_size, len(rows), self._mesh)
        if size not in evaluators:
            evaluators[size] = Evaluator(predictor.outputs, self._restored.graphdef, self._mesh, size)
        if len(rows):
            volume, batches = rows.volume, -(-len(rows) // size)
            self._units = Units(
                self._units.computed + batches * size * volume.per_row,
                self._units.useful + round(len(rows) * volume.useful_per_row),
            )
        outputs = [evaluators[size](each.params, rows) for each in self._members]
        return outputs[0] if self._ensemble is None else self._ensemble.mean_outputs(outputs)


def load(
    workdir: str | pathlib.Path, *, entities: str | pathlib.Path | None = None, labels: Sequence[str] = ()
) -> Model:
    """Returns a trained run, to call with texts; UserError when there is none. `entities`, `labels`: as `Model`."""
    return Model(workdir, entities=entities, labels=labels)


def _finder(predictor: Predictor, entities: str | pathlib.Path, words: str) -> Model:
    """Opens the run that finds entities for another; UserError where the two do not go together."""
    if not isinstance(predictor, ReadsEntities):
        raise UserError(f"--entities={entities}: the model of --workdir does not relate entities: leave out the flag.")
    finder = Model(files.user_path(entities, "--entities"), words)
    model_options.check_finder(predictor, finder._predictor, entities, finder.task)
    return finder
