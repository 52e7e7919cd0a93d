"""Whole checkpoints of an encoder of images and one of texts, in and out: strict both ways."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig, UnfitShapeError
from jaxfm.core.initial import HostArray, ImageLayout
from jaxfm.core.towers import TowersConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import TowerPair
from jaxfm.families.models import tower_shapes
from jaxfm.families.registry import PAIRS, pair_of
from jaxfm.hub.image_positions import image_model_problem, written_positions
from jaxfm.hub.image_processors import write_image_processor
from jaxfm.hub.tensor_files import check_finite, open_tensors
from jaxfm.hub.tensor_writing import write_f32
from jaxfm.hub.weights import Entry, TensorPlan, check_unused, config_values, gather, plan_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IMAGE, TEXT = "encoder/", "text_encoder/"
# With this number transformers' class takes the highest token of a text for its end, as checkpoints of old have it.
_HIGHEST_IS_END = 2


@dataclasses.dataclass(frozen=True)
class PairCheckpoint:
    """A Hugging Face directory of two towers in jaxfm's names.

    Attributes:
      towers: shape of both and of what is beside them.
      params: path -> f32 array of every parameter of `models.two_towers.TwoTowers`, read when it is asked for.
      notes: sentences for the log: which tensors were not used.
    """

    towers: TowersConfig
    params: dict[str, HostArray]
    notes: tuple[str, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """Reads all parameters into the host's memory."""
        return {path: np.asarray(value) for path, value in self.params.items()}


def read_pair_config(directory: pathlib.Path) -> TowersConfig | None:
    """Reads config.json of a directory; None where it is not that of a pair of towers.

    Raises:
      UserError: it is missing or not supported.
    """
    values: Mapping[str, Any] = config_values(directory)
    pair = PAIRS.get(str(values.get("model_type")))
    # A class of images over one tower alone (ForImageClassification) has the config of both.
    named: Any = values.get("architectures")
    if pair is None or pair.architecture not in (named or [pair.architecture]):
        return None
    where = str(directory / "config.json")
    try:
        return pair.read_config(ConfigValues(values, where))
    except UnfitShapeError as error:
        raise UserError(f"{where}: {error}.") from error


def read_pair(directory: pathlib.Path) -> PairCheckpoint | None:
    """Reads the two towers of a directory and all that is between them; None where it holds no pair.

    Raises:
      UserError: as `hub.weights.read_checkpoint`.
    """
    towers = read_pair_config(directory)
    if towers is None:
        return None
    pair = _pair(towers)
    assert pair is not None, "as it was read"
    tensors = open_tensors(directory)
    params: dict[str, HostArray] = {}
    read: set[str] = set()
    for encoder, table in _tables(pair, towers):
        params |= {ours: gather(ours, entry, tensors, encoder, directory) for ours, entry in table.items()}
        read |= {name for entry in table.values() for name in entry.tensor.names(encoder.layer_stacks)}
    unused = check_unused(set(tensors) - read, pair.known_extras, pair.architecture, directory)
    for name in sorted(read):
        check_finite(name, tensors[name].chunks(), str(directory))
    notes = (f"weights not used: {', '.join(unused)}",) if unused else ()
    return PairCheckpoint(towers, params, notes)


def pair_problem(towers: TowersConfig, layout: ImageLayout, tokenizer: "PreTrainedTokenizerFast") -> str | None:
    """Returns why no class of a pair computes what two towers do; "" where one does; None: there is no such class."""
    pair = pair_of(towers.image.family, towers.text.family)
    if pair is None:
        return None
    usual = pair.towers(towers.image, towers.text)
    for key in ("image_pooling", "text_pooling", "image_projection", "text_bias", "bias"):
        own, theirs = getattr(towers, key), getattr(usual, key)
        if own != theirs:
            asked = f"task.loss={'sigmoid' if theirs else 'infonce'}" if key == "bias" else "task.image_pooling=auto, "
            asked = asked if key == "bias" else f"{asked}task.text_pooling=auto and task.dimension=0"
            return (
                f"--format=hf: transformers' {pair.architecture} has {key} {theirs!r}, this run {own!r}. Train with "
                f"{asked} to export, or use jaxfm.predict."
            )
    if problem := image_model_problem(towers.image, layout):
        return problem
    if pair.end_token and end_token(tokenizer) == _HIGHEST_IS_END:
        return (
            f"--format=hf: the last token of a text has the number {_HIGHEST_IS_END}, for which transformers' "
            f"{pair.architecture} takes another token. Use jaxfm.predict."
        )
    return ""


def end_token(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Returns the number of the token that a tokenizer ends texts with."""
    ids: Any = tokenizer("", verbose=False)["input_ids"]
    return int(ids[-1]) if ids else -1


def write_pair(
    folder: pathlib.Path,
    towers: TowersConfig,
    *,
    params: Mapping[str, np.ndarray],
    layout: ImageLayout,
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    """Writes config.json, model.safetensors, the tokenizer and the image processor of a pair of towers.

    Args:
      folder: where to; it exists.
      towers: for which `pair_problem` is "".
      params: path -> array of every parameter of `models.two_towers.TwoTowers`.
      layout: how images become pixels: squares.
      tokenizer: of the text tower.
    """
    pair = _pair(towers)
    assert pair is not None and pair_problem(towers, layout, tokenizer) == ""
    image, own = written_positions(towers.image, params, layout)
    towers = dataclasses.replace(towers, image=image)
    if not towers.bias:  # transformers has no limit of the factor
        limit = np.float32(np.log(100.0))
        own = {**own, "log_scale": np.minimum(np.asarray(own["log_scale"], np.float32), limit)}
    write_pair_tensors(folder / "model.safetensors", towers, own)
    config = pair.write_config(towers)
    special: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}
    special |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end_token(tokenizer)} if pair.end_token else {}
    config["text_config"] |= special
    scale = {"logit_scale_init_value": float(own["log_scale"])} if not towers.bias else {}
    files.write_json(
        folder / "config.json",
        {"architectures": [pair.architecture], "model_type": pair.name, **config, **scale, "dtype": "float32"},
    )
    write_image_processor(folder, layout)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    values = {**files.read_json(path), "model_max_length": towers.text.max_positions}
    if not pair.masks_padding:  # transformers' processors then give the model no mask, as it was trained
        values["model_input_names"] = ["input_ids"]
    files.write_json(path, values)


def write_pair_tensors(path: pathlib.Path, towers: TowersConfig, params: Mapping[str, HostArray]) -> None:
    """Writes two towers and all between them under transformers' names; one part of a tensor is copied at a time."""
    pair = _pair(towers)
    assert pair is not None
    tables = list(_tables(pair, towers))
    known = {ours for _, table in tables for ours in table}
    assert set(params) == known, f"not the parameters of {pair.architecture}: {sorted(set(params) ^ known)}"
    plans: dict[str, TensorPlan] = {}
    for encoder, table in tables:
        plan = plan_tensors(encoder, table, params)
        plans |= dict.fromkeys(plan.shapes, plan)
    write_f32(path, {name: plan.shapes[name] for name, plan in plans.items()}, lambda name: plans[name].read(name))


def _pair(towers: TowersConfig) -> TowerPair | None:
    return pair_of(towers.image.family, towers.text.family)


def _tables(pair: TowerPair, towers: TowersConfig) -> Iterator[tuple[EncoderConfig, dict[str, Entry]]]:
    """Yields an encoder and where its parameters lie: of the image tower, of the text tower, of all beside them."""
    shapes = tower_shapes(towers)
    rest = {ours: shape for ours, shape in shapes.items() if not ours.startswith((IMAGE, TEXT))}
    assert set(rest) == set(pair.tensors), sorted(set(rest) ^ set(pair.tensors))
    for prefix, encoder, own in ((IMAGE, towers.image, pair.image), (TEXT, towers.text, pair.text)):
        tensors = {prefix + ours.removeprefix(IMAGE): tensor for ours, tensor in own.encoder_tensors().items()}
        yield encoder, {ours: Entry(tensor, shapes[ours]) for ours, tensor in tensors.items() if ours in shapes}
    yield towers.text, {ours: Entry(tensor, rest[ours]) for ours, tensor in pair.tensors.items()}
