"""A trained run as a Python object: texts in, results, vectors or scores of pairs out."""

import itertools
import pathlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.batch import Dataset
from jaxfm.core.build import Build
from jaxfm.core.task import (
    ComparesLabels,
    DrawsPictures,
    EmbedsTexts,
    EmbedsTokens,
    FindsEntities,
    Predictor,
    ReadsEntities,
    ReadsImages,
    ScoresPairs,
)
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.examples import PAIR_COLUMNS
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import image_input
from jaxfm.training.evaluation import Evaluator, bucket
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import compute_dtype

RUN_WORDS = "run"
_LISTED = 12  # labels in a repr
COLUMNS = ("text_column", "pair_column", "words_column")

Text = str | tuple[str, str] | Mapping[str, Any]
"""A text, a pair of texts, or a record: {"text": ...}, also with "pair", with "tokens" (words) beside it or alone, and
with the entities that a model relates ("head" and "tail", or "entities").
"""


class Model:
    """A trained run, loaded: call it with texts as often as you like, also from several threads.

    Attributes:
      workdir: the run directory.
      task: name of its task.
      labels: class names of its head, empty where the head has none.
      step: whose checkpoint it is.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        words: str = RUN_WORDS,
        entities: str | pathlib.Path | None = None,
        labels: Sequence[str] = (),
    ):
        """Restores the run's chosen checkpoint; UserError when there is none. `words`, `entities`: the program's flags.

        `entities` is a run that finds the entities of each text, for a model that relates entities. `labels` are the
        classes that images are compared with, for a model that compares them with any texts.
        """
        self.workdir = files.user_path(workdir, "--workdir")
        with libraries_quieted():
            run = open_run(self.workdir)
            predictor, self._finder = run.predictor(), None
            if entities is not None:
                self._finder = _finder(predictor, entities, words)
            predictor = predictor if entities is not None else _split_by(predictor, words)
            self._predictor = _labelled(predictor, labels) if labels else predictor
            config = run.config
            self._mesh = make_mesh(MeshConfig())
            self._restored = run.restore(self._mesh, Build(compute_dtype(config.train.precision)))
        self._run = run
        self.task, self.labels = config.task.name, self._predictor.labels
        self.step = self._restored.step
        self._batch_size = config.eval.batch_size
        self._trained = {name: getattr(config.data, name) for name in (*COLUMNS, "label_column")}
        # One compiled function a batch size: small calls must not pay for a large batch.
        self._evaluators: dict[int, Evaluator] = {}
        # Tokenizers are not safe to call from two threads at once: they set their truncation anew at each call.
        self._one_at_a_time = threading.Lock()

    def __repr__(self) -> str:
        more = f" and {len(self.labels) - _LISTED} more" if len(self.labels) > _LISTED else ""
        listed = f"{', '.join(self.labels[:_LISTED])}{more}" if self.labels else "none"
        return f"<jaxfm.Model: {self.task}, labels: {listed}; step {self.step} of {str(self.workdir)!r}>"

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        return self._predictor.pairs

    @property
    def wanted(self) -> Wanted:
        """What it reads."""
        if self._finder is not None:
            return self._finder.wanted
        fields = self._predictor.record_fields if isinstance(self._predictor, ReadsEntities) else ()
        return Wanted(self._predictor.pairs, self._predictor.takes_words, trained=self._trained, fields=fields)

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
            return next(self.stream([self._record(texts, "the text")]))
        if getattr(texts, "shape", None) == ():  # one text as a NumPy array without axes
            texts = texts.item()  # type: ignore[union-attr]
        if isinstance(texts, str | Mapping):
            return next(self.stream([self._record(texts, "the text")]))
        if isinstance(texts, bytes) or hasattr(texts, "columns") or not isinstance(texts, Iterable):
            raise UserError(f"a {type(texts).__name__} is neither a text nor a list of texts (such as one column).")
        return list(self.stream(self._record(text, f"text {number}") for number, text in enumerate(texts, start=1)))

    def stream(self, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields one result a record ({"text": ...}, or with "pair"), in order, as many at a time as the task says.

        An "id" of a record is copied to its result.
        """
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            for record, result in zip(chunk, self._predict(chunk), strict=True):
                named = {"id": record["id"]} if "id" in record else {}
                yield named | result

    @property
    def records_at_once(self) -> int:
        """Records that are computed together."""
        return self._predictor.records_at_once

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
        role = _role(role, embeds.roles)
        for chunk in self._portions(texts):
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
        role = _role(role, embeds.roles)
        for chunk in self._portions(texts):
            with self._one_at_a_time:
                encoded = embeds.embedding_rows(chunk, role)
                found += embeds.token_vectors(encoded, self._outputs(encoded.rows), role)
        return found

    def _portions(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yields as many texts as are computed together; UserError for what is not a text."""
        iterator, number = iter(texts), 0
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            for text in chunk:
                number += 1
                if not isinstance(text, str):
                    raise UserError(f"text {number}: is of type {type(text).__name__}, but must be text.")
            yield [str(text) for text in chunk]

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

    def fingerprint(self) -> str:
        """Returns a hash of the weights, the spec and the tokenizer: of all that a vector of a text depends on."""
        return self._run.fingerprint(self._restored)

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
        return not isinstance(self._predictor, ReadsImages) or self._predictor.reads_texts

    def pictures(self, images: Iterable[Any]) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields what the model makes of each image, heading -> pixels uint8 [H, W, C].

        Of a classifier: what its last layer attends to; of masked pretraining: hidden patches as it predicts them.
        Raises UserError for a model that makes no pictures.
        """
        if not isinstance(self._predictor, DrawsPictures):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which makes no pictures.")
        drawing = self._predictor.with_pictures()
        records = (image_input.image_record(each, f"image {number}") for number, each in enumerate(images, start=1))
        for encoded, outputs in self._computed(drawing, records):
            yield from self._predictor.pictures(encoded, outputs)

    def _record(self, text: Any, origin: str) -> dict[str, Any]:
        is_text = isinstance(text, str) or (isinstance(text, Mapping) and "image" not in text)
        if self.reads_images and not (is_text and self.reads_texts):
            return image_input.image_record(text, origin.replace("text", "image"))
        if isinstance(text, Mapping):
            wanted = ("text", "pair", "tokens", "id", *self.wanted.fields)
            record = {name: text[name] for name in wanted if name in text}
            if self.pairs and "text" not in record:
                both = next((both for both in PAIR_COLUMNS if set(both) <= set(text)), ())
                record |= {name: text[column] for name, column in zip(("text", "pair"), both, strict=False)}
        elif isinstance(text, tuple | list) and len(text) == 2:
            record = {"text": text[0], "pair": text[1]}
        else:
            record = {"text": text}
        # NumPy's strings are strings, but not ones that everybody writes as JSON.
        record = {name: str(value) if isinstance(value, str) else value for name, value in record.items()}
        return source_unlabelled.check_record({**record, "origin": origin}, self.wanted)

    def _predict(self, chunk: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if self._finder is not None:
            found = self._finder._predict(chunk)
            chunk = [
                {"origin": record.get("origin", "a record"), "text": result["text"], "entities": result["entities"]}
                for record, result in zip(chunk, found, strict=True)
            ]
        with self._one_at_a_time:
            encoded = self._predictor.encode(chunk)
            return self._predictor.decode(encoded, self._outputs(encoded.rows))

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
        size = bucket(self._batch_size, len(rows), self._mesh)
        if size not in evaluators:
            evaluators[size] = Evaluator(predictor.outputs, self._restored.graphdef, self._mesh, size)
        return evaluators[size](self._restored.params, rows)


def load(workdir: str | pathlib.Path, *, entities: str | pathlib.Path | None = None) -> Model:
    """Returns a trained run, to call with one text or many; UserError when there is none.

    `entities` is a run that finds the entities of each text, for a model that relates entities.
    """
    return Model(workdir, entities=entities)


def _finder(predictor: Predictor, entities: str | pathlib.Path, words: str) -> Model:
    """Opens the run that finds entities for another; UserError where the two do not go together."""
    if not isinstance(predictor, ReadsEntities):
        raise UserError(f"--entities={entities}: the model of --workdir does not relate entities: leave out the flag.")
    finder = Model(files.user_path(entities, "--entities"), words)
    found = finder._predictor
    if not isinstance(found, FindsEntities):
        raise UserError(
            f"--entities={entities}: is a run of the task {finder.task}, which finds no entities. Name a run that does."
        )
    if problem := predictor.entity_problem(found.entity_types):
        raise UserError(f"--entities={entities}: {problem}")
    return finder


def _split_by(predictor: Predictor, words: str) -> Predictor:
    """Returns the predictor with the asked way to split raw text into words; UserError where it has no such way."""
    if words == RUN_WORDS:
        return predictor
    if not predictor.splitters:
        raise UserError(
            f"--words={words}: only a model that reads a text word by word (named entities) has such a rule."
        )
    if words not in predictor.splitters:
        raise UserError(f"--words={words}: {did_you_mean(words, predictor.splitters)}")
    return predictor.with_splitter(words)


def _labelled(predictor: Predictor, labels: Sequence[str]) -> Predictor:
    """Returns the predictor with other classes; UserError where its classes are those that it was trained on."""
    if not isinstance(predictor, ComparesLabels):
        raise UserError("--labels: the model of --workdir has its own classes: leave out the flag.")
    if len(set(labels)) < 2 or not all(label.strip() for label in labels):
        raise UserError(f"--labels={','.join(labels)}: give two different texts at least, with a comma between them.")
    return predictor.with_labels(tuple(label.strip() for label in labels))


def _role(given: str, roles: Sequence[str]) -> str:
    """Returns the role of texts, the usual one where none is given; UserError for an unknown one."""
    role = given or roles[-1]
    if role not in roles:
        raise UserError(f"role: {role!r}. {did_you_mean(role, roles)}")
    return role
