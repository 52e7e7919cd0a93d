"""What a task is to the programs and the training loop, which know no task by name.

A new task is new files: a frozen dataclass of its config keys, a Spec, an Objective, a Scorer for each split, a
Predictor, and one TaskDefinition that makes them; `jaxfm.tasks.registry` lists the definition.
"""

import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.evaluation import Evaluation
from jaxfm.core.explained import Explained
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.objective import Objective
from jaxfm.core.spec import Spec, SpecValues

# The run directory's memory of a tokenizer, or of whatever else turns input into rows.
TOKENIZER_DIR = "tokenizer"
# Probabilities as the model gives them.
NOT_CALIBRATED: Mapping[str, float] = types.MappingProxyType({})


class Scorer(Protocol):
    """Scores the outputs of one split against its targets; outputs are arrays [N, ...] over its rows."""

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Returns the numbers that a run logs while it trains; one of them chooses the best checkpoint."""
        ...

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns sentences for the person who watches the run, () where nothing is odd."""
        ...

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits what makes probabilities honest to this split; empty where nothing can be fitted."""
        ...

    def report(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = ...) -> Evaluation:
        """Returns all there is to say of a split, its probabilities changed by what `calibrate` gave."""
        ...


class Task(Protocol):
    """An objective with the data of one run."""

    @property
    def objective(self) -> Objective:
        """The model and its loss."""
        ...

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        ...

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> rows; "train" first where it is one of them."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the log."""
        ...

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Keys that the config left to the data -> what was chosen: {"eval.metric": "macro_f1"}; empty: none."""
        ...

    def scorer(self, split: str) -> Scorer:
        """Returns what scores a split other than the one that is trained on."""
        ...

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and whatever turns input into rows (the tokenizer's files)."""
        ...


class Predictor(Protocol):
    """A trained model over unlabelled input: records in, rows to compute, records out; and on its way to others."""

    @property
    def records_at_once(self) -> int:
        """Enough to pack well, few enough to hold: a million lines never are in memory at once."""
        ...

    @property
    def takes_words(self) -> bool:
        """Whether a record may have "tokens", words already split, beside or in place of "text"."""
        ...

    @property
    def splitters(self) -> tuple[str, ...]:
        """Ways to split a raw text into words, the run's own first; empty where the model does not read words."""
        ...

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the head; empty where the head has none."""
        ...

    @property
    def pairs(self) -> bool:
        """Whether a record has two texts."""
        ...

    def with_splitter(self, splitter: str) -> "Predictor":
        """Returns the same with another of `splitters`."""
        ...

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what `decode` needs of each row."""
        ...

    def encode(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """Turns records ({"text": ...}) into an object with `rows`, the dataset to compute."""
        ...

    def decode(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a record, JSON values.

        Outputs of tokens are read by their places: the array of a single short row may end where its tokens do.
        """
        ...

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns a result as lines for a person."""
        ...

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where transformers has a class that computes the same."""
        ...

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes config, weights and tokenizer as transformers' from_pretrained wants them.

        Raises UserError with the text of `hf_problem` where there is one.
        """
        ...


@runtime_checkable
class FindsEntities(Protocol):
    """What a predictor is beside `Predictor` where its results have "entities": `--entities` of jaxfm.predict.

    Each is {"type", "start", "end", ...}, in characters of the result's "text", end exclusive.
    """

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The types that entities may have."""
        ...


@runtime_checkable
class ReadsEntities(Protocol):
    """What a predictor is beside `Predictor` where it judges entities of a text that its records name."""

    @property
    def record_fields(self) -> tuple[str, ...]:
        """Fields of a record, beside its text, that `encode` reads; "entities" of `FindsEntities` is one of them."""
        ...

    def entity_problem(self, types: Sequence[str]) -> str:
        """Returns why entities of these types cannot be judged; "" where they can."""
        ...


@runtime_checkable
class EmbedsTexts(Protocol):
    """What a predictor is beside `Predictor` where a text becomes a vector: for search, clusters, `jaxfm.retrieve`."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        ...

    @property
    def similarity(self) -> str:
        """How vectors are compared: "cosine" (they have length 1) or "dot"."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """What a text may be, the usual one last: prompts and lengths may differ."""
        ...

    def embedding_rows(self, texts: Sequence[str], role: str) -> Any:
        """Turns texts of one of `roles` into an object with `rows`, the dataset to compute."""
        ...

    def vectors(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns f32 [N, D], the vector of each text in the order they were given."""
        ...


@runtime_checkable
class EmbedsTokens(Protocol):
    """What a predictor is beside `Predictor` where a text becomes a vector a token, compared by MaxSim."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """What a text may be, the usual one last: prompts and lengths may differ."""
        ...

    def embedding_rows(self, texts: Sequence[str], role: str) -> Any:
        """Turns texts of one of `roles` into an object with `rows`, the dataset to compute."""
        ...

    def token_vectors(self, encoded: Any, outputs: Mapping[str, np.ndarray], role: str) -> list[np.ndarray]:
        """Returns f32 [L, D] of each text in the order they were given: its tokens that are compared, one at least."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """What a predictor is beside `Predictor` where it can say how well two texts go together: for reranking."""

    def pair_score_problem(self) -> str:
        """Returns why a pair of texts has no one score; "" where it has one."""
        ...

    def pair_scores(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns f64 [N] of the records that `encode` was given, the higher the better."""
        ...


@runtime_checkable
class ReadsImages(Protocol):
    """What a predictor is beside `Predictor` where a record is an image: {"image": data.images.stored.StoredImage}."""

    @property
    def reads_texts(self) -> bool:
        """Whether a record may be a text instead: {"text": ...}."""
        ...


@runtime_checkable
class DrawsPictures(Protocol):
    """What a predictor is beside `ReadsImages` where what it finds of an image can be drawn."""

    def with_pictures(self) -> "Predictor":
        """Returns the same, whose outputs have what pictures need."""
        ...

    def pictures(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
        """Returns of each record heading -> pixels, uint8 [H, W, C], in the order in which they are to be seen."""
        ...


@runtime_checkable
class ComparesLabels(Protocol):
    """What a predictor is beside `Predictor` where the classes that a record is compared with are any texts."""

    @property
    def fewest_labels(self) -> int:
        """Classes that a record must be compared with at least."""
        ...

    def with_labels(self, labels: Sequence[str]) -> "Predictor":
        """Returns the same with these classes, all different; UserError for texts that cannot be classes."""
        ...


@runtime_checkable
class ReadsLabels(ComparesLabels, Protocol):
    """What a predictor is beside `ComparesLabels` where vectors of labels are computed once, before any record."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that records are compared with; empty: none."""
        ...

    def label_rows(self) -> Dataset:
        """Returns rows of one label each, in order."""
        ...

    def label_outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what `with_label_outputs` needs of each row."""
        ...

    def with_label_outputs(self, outputs: Mapping[str, np.ndarray]) -> "Predictor":
        """Returns the same, which compares records with what was computed of the labels."""
        ...


@runtime_checkable
class ReadsNeighbours(Protocol):
    """What a predictor is beside `Predictor` where a record may be read with those before and after it."""

    @property
    def reads_neighbours(self) -> bool:
        """Whether it does so; a blank record ends what belongs together."""
        ...


@runtime_checkable
class ExplainsResults(Protocol):
    """What a predictor is beside `Predictor` where parts of a result can be traced back to words or patches.

    `training.attribution` asks this of it and knows no task.
    """

    @property
    def explains_pairs(self) -> bool:
        """Whether a record that can be explained has two texts."""
        ...

    def explain_problem(self) -> str:
        """Returns why this model's results cannot be explained; "" where they can."""
        ...

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """Turns records into an object with `rows`: those of `encode`, unless a result is of more than one record."""
        ...

    def explained_outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "scores" and "probabilities", arrays of one shape [B, ...]: see `core.explained`."""
        ...

    def explained(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns of each record what can be explained, and by which tokens; `outputs` are those of `outputs`."""
        ...


@runtime_checkable
class GivesRecords(Protocol):
    """What a task is beside `Task` where its labelled examples can be given to a predictor."""

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """Returns what the predictor reads of each example of a split, with "origin", and with "gold": its target."""
        ...


@runtime_checkable
class GivesProbabilities(Protocol):
    """What a predictor is beside `Predictor` where a record, or each of its words, has probabilities of classes.

    `jaxfm.select` and `jaxfm.self_train` ask this of it. A record has U units: words, or 1.
    """

    @property
    def probability(self) -> str:
        """Of a unit's classes one holds ("softmax") or any number ("sigmoid"); "" where it has no classes."""
        ...

    @property
    def of_words(self) -> bool:
        """Whether units are words."""
        ...

    def features(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `outputs`, and "features": what the last layer reads."""
        ...

    def unit_probabilities(
        self, encoded: Any, outputs: Mapping[str, np.ndarray], *, calibrated: bool = True
    ) -> list[np.ndarray]:
        """Returns f64 [U, C] of each record, calibrated or as the last layer gives them."""
        ...

    def unit_features(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what the last layer reads of each record, f32 [U, D]; `outputs` are those of `features`."""
        ...


@runtime_checkable
class WritesExamples(Protocol):
    """What a task is beside `Task` where its examples can be a source again, JSON lines: `jaxfm.self_train`."""

    def example_lines(self, split: str) -> list[dict[str, Any]]:
        """Returns the examples of a split as objects that `jsonl:` reads, under the usual names of columns."""
        ...

    def predicted_lines(self, split: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns what the task's predictor says of records as examples in the form of that split."""
        ...


@runtime_checkable
class AveragesModels(Protocol):
    """What a predictor is beside `Predictor` where several models of one task can answer together: deep ensembles."""

    def average_problem(self) -> str:
        """Returns why what models of this kind say cannot be averaged; "" where it can."""
        ...

    def calibrated(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns outputs whose probabilities are the calibrated ones of this model."""
        ...

    def mean_outputs(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the outputs of all models together, of which `calibrated` of each are given.

        Their probabilities, or numbers, are the mean of the models'. A scorer reads them as those of one model; a
        decoder finds in them how far the models lie apart, too.
        """
        ...

    def uncalibrated(self) -> Predictor:
        """Returns what decodes `mean_outputs`."""
        ...


@runtime_checkable
class ComparesModels(Protocol):
    """What a scorer is beside `Scorer` where it can say how far models of one task agree."""

    def disagreement(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
        """Returns name -> number, from `calibrated` outputs of each model (`evaluation/ensembles.py`)."""
        ...


class TaskDefinition(Protocol):
    """All that the registry knows of a task."""

    @property
    def name(self) -> str:
        """The name that `config.task.name` gives."""
        ...

    @property
    def config_class(self) -> type:
        """The task's keys: a frozen dataclass with the field `name`; they are the config's group `task`."""
        ...

    @property
    def moved(self) -> Mapping[str, str]:
        """Keys of older configs -> where they are now, or a sentence that says so; see `schema.build`."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Keys -> their default for new runs of this task, where it is another one: {"train.min_steps": 200}.

        Keys of the trainer; and keys of the task ("task.decoding") whose dataclass has what older runs did.
        """
        ...

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> Objective:
        """Builds model and loss for an encoder's shape, without data, weights or tokenizer."""
        ...

    def create(self, config: Config, initial: Initial) -> tuple[Task, Mapping[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Returns the task and, of the loaded parameters (path -> array), those that it uses.
        """
        ...

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training.

        Raises UserError where it cannot be read at all.
        """
        ...

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json, of this version or an older one, is of this task."""
        ...

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> Spec:
        """Builds the spec of a trained run from its task.json and the config in its config.json."""
        ...

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the config of a run of version 1 of config.json in today's keys; None: it is of another task."""
        ...

    def reopen(self, workdir: pathlib.Path, spec: Any, config: Config, source: str, split: str) -> Task:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        ...

    def predictor(self, workdir: pathlib.Path, spec: Any) -> Predictor:
        """Returns what turns input into a trained run's predictions, with the calibration that the run fitted."""
        ...
