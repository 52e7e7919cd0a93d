"""A toy task of another modality, registered from the test folder alone: which half of an 8 x 8 image is brighter.

Everything that a task is made of stands in this one file: config keys, inputs, spec, objective, scorer, predictor and
definition.
"""

# B batch, T patches, D model, C classes, N images

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from jaxfm import files
from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.core.batch import BatchSpec, Field, Volume
from jaxfm.core.build import Build
from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.evaluation import BootstrapData, Evaluation
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.objective import Loss, LossContext
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.arrays import ArrayDataset
from jaxfm.models import flops
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import output_layer
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.observe.metrics import weighted
from jaxfm.observe.tables import Table
from jaxfm.parallel.mesh import with_axes
from jaxfm.schema import field
from jaxfm.tasks import registry

NAME = "toy_image"
SIDE, PATCH = 8, 4
PATCHES = (SIDE // PATCH) ** 2
LABELS = ("bottom", "top")


@dataclasses.dataclass(frozen=True)
class ToyImageConfig:
    """Keys of the toy task."""

    name: str = field(NAME, "the task", choices=(NAME,))
    images: int = field(32, "images of the training split; a quarter of it in each other split", at_least=4)


def fields() -> BatchSpec:
    """The arrays that `PatchInputs` reads."""
    return {"pixels": Field((SIDE, SIDE), np.dtype(np.float32))}


class PatchInputs(nnx.Module):
    """Patches of 4 x 4 pixels as positions of a row (Dosovitskiy et al. 2021)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        init = nnx.initializers.truncated_normal(config.initializer_range)
        self.dense = nnx.Linear(
            PATCH**2,
            config.hidden_size,
            dtype=dtype,
            kernel_init=with_axes(init, "features", "embed"),
            bias_init=with_axes(nnx.initializers.zeros_init(), "embed"),
            rngs=rngs,
        )
        table = with_axes(init, "positions", "embed")
        self.position = nnx.Embed(PATCHES, config.hidden_size, dtype=dtype, embedding_init=table, rngs=rngs)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> Inputs:
        del key
        pixels = batch["pixels"]
        side = SIDE // PATCH
        patches_BTP = pixels.reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(-1, PATCHES, PATCH**2)
        positions_BT = jnp.broadcast_to(jnp.arange(PATCHES), patches_BTP.shape[:2])
        return Inputs(self.dense(patches_BTP) + self.position(positions_BT), jnp.ones_like(positions_BT), positions_BT)


class ToyImageModel(nnx.Module):
    """An encoder of patches and classes of their mean."""

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs):
        self.encoder = Encoder(config, build, rngs, inputs=PatchInputs(config, build.dtype, rngs))
        self.head = output_layer(config, len(LABELS), build.dtype, rngs)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        return self.head(self.encoder(batch, key=key).mean(axis=1)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ToyImageSpec:
    encoder: EncoderConfig

    @property
    def row_length(self) -> int:
        return PATCHES

    def batch_spec(self) -> BatchSpec:
        return {**fields(), "labels": Field((), fill=-1)}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> ToyImageModel:
        return ToyImageModel(self.encoder, build, rngs)


@dataclasses.dataclass(frozen=True)
class ToyImageObjective:
    spec: ToyImageSpec
    whole_batch = False

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        valid_B = batch["labels"] >= 0
        log_probs_BC = jax.nn.log_softmax(model(batch, key=context.key))
        picked_B = jnp.take_along_axis(log_probs_BC, jnp.maximum(batch["labels"], 0)[:, None], axis=-1)[:, 0]
        right = jnp.sum((log_probs_BC.argmax(axis=-1) == batch["labels"]) & valid_B)
        weight = valid_B.sum().astype(jnp.float32)
        return Loss(-(picked_B * valid_B).sum(), weight, {"accuracy": weighted(right, weight)})

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"logits": model(batch)}

    def logits_per_row(self) -> float:
        return len(LABELS)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        return flops.encoder_flops_per_row(self.spec.encoder, PATCHES, adapt)


@dataclasses.dataclass(frozen=True)
class ToyImageScorer:
    labels_N: np.ndarray

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        return {"accuracy": float((outputs["logits"].argmax(axis=-1) == self.labels_N).mean())}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {}

    def report(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] | None = None) -> Evaluation:
        metrics, found = self.metrics(outputs), outputs["logits"].argmax(axis=-1)
        right = (found == self.labels_N).astype(np.float64)
        return Evaluation(
            metrics=metrics,
            scores=metrics,
            tables=(Table("Images", ("images", "accuracy"), [(len(found), metrics["accuracy"])]),),
            predictions=[
                {"gold": LABELS[gold], "predicted": LABELS[one]} for gold, one in zip(self.labels_N, found, strict=True)
            ],
            bootstrap_data=BootstrapData(
                "images",
                {"right": right},
                lambda units, weight_RN: {"accuracy": weight_RN @ units["right"] / weight_RN.sum(axis=1)},
                self.labels_N.tolist(),
            ),
        )


@dataclasses.dataclass(frozen=True)
class ToyImageTask:
    objective: ToyImageObjective
    datasets: Mapping[str, ArrayDataset]
    notes: tuple[str, ...] = ()
    directions = {"accuracy": True}
    chosen = {"eval.metric": "accuracy"}

    def scorer(self, split: str) -> ToyImageScorer:
        return ToyImageScorer(self.datasets[split].arrays["labels"])

    def save(self, workdir: pathlib.Path) -> None:
        write_spec(workdir, NAME, self.objective.spec)


@dataclasses.dataclass(frozen=True)
class Encoded:
    rows: ArrayDataset


@dataclasses.dataclass(frozen=True)
class ToyImagePredictor:
    spec: ToyImageSpec
    labels = LABELS
    records_at_once = 64
    takes_words = pairs = False
    splitters = ()

    def with_splitter(self, splitter: str) -> "ToyImagePredictor":
        raise AssertionError(splitter)

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"logits": model(batch)}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> Encoded:
        pixels = np.asarray([record["pixels"] for record in records], np.float32)
        return Encoded(
            ArrayDataset({"pixels": pixels}, fields(), Volume("patches", PATCHES, PATCHES, singular="patch"))
        )

    def decode(self, encoded: Encoded, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        return [{"label": LABELS[int(found)]} for found in outputs["logits"].argmax(axis=-1)]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        return [result["label"]]

    def hf_problem(self) -> str:
        return ""

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        files.write_json(folder / "config.json", {"model_type": NAME, "id2label": dict(enumerate(LABELS))})
        safetensors.numpy.save_file(dict(params), folder / "model.safetensors")


class ToyImageDefinition:
    name = NAME
    config_class = ToyImageConfig
    defaults: Mapping[str, Any] = {}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ToyImageObjective:
        return ToyImageObjective(ToyImageSpec(encoder))

    def create(self, config: Config, initial: Initial) -> tuple[ToyImageTask, Mapping[str, HostArray]]:
        sizes = {"train": config.task.images, "valid": config.task.images // 4, "test": config.task.images // 4}
        datasets = {split: images(count, seed) for seed, (split, count) in enumerate(sizes.items())}
        return ToyImageTask(ToyImageObjective(ToyImageSpec(initial.encoder)), datasets, ("toy images",)), {}

    def check(self, config: Config, initial: Initial) -> DataCheck:
        sizes = Table("Images", ("split", "images"), [("train", config.task.images)])
        return DataCheck((sizes,), (Finding("ok", "size", f"{config.task.images} images"),))

    def reads(self, values: Mapping[str, Any]) -> bool:
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ToyImageSpec:
        return build_spec(ToyImageSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        return None

    def reopen(
        self, workdir: pathlib.Path, spec: ToyImageSpec, config: Config, source: str, split: str
    ) -> ToyImageTask:
        return ToyImageTask(ToyImageObjective(spec), {split: images(config.task.images // 4, seed=9)})

    def predictor(self, workdir: pathlib.Path, spec: ToyImageSpec) -> ToyImagePredictor:
        return ToyImagePredictor(spec)


def images(count: int, seed: int) -> ArrayDataset:
    """Noise, brighter in one half."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count).astype(np.int32)
    pixels = draw.standard_normal((count, SIDE, SIDE)).astype(np.float32) * 0.1
    pixels[labels == 1, : SIDE // 2] += 1.0
    pixels[labels == 0, SIDE // 2 :] += 1.0
    spec = {**fields(), "labels": Field((), fill=-1)}
    return ArrayDataset(
        {"pixels": pixels, "labels": labels}, spec, Volume("patches", PATCHES, PATCHES, singular="patch")
    )


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Makes the task known for a while."""
    registry.register(ToyImageDefinition())
    try:
        yield
    finally:
        del registry._DEFINITIONS[NAME]
