"""Two towers as transformers' VisionTextDualEncoderModel: one directory with both encoders and both maps."""

import math
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.hub.config_json import hf_config, missing_class
from jaxfm.hub.image_positions import image_model_problem, written_positions
from jaxfm.hub.tensor_writing import write_f32
from jaxfm.hub.weights import plan_model
from jaxfm.hub.whole_heads import with_whole_heads

_POOLER = "pooler"


def dual_encoder_problem(
    image: EncoderConfig,
    text: EncoderConfig,
    layout: ImageLayout,
    image_pooling: str,
    text_pooling: str,
    *,
    biased: bool,
) -> str:
    """Returns why transformers' class does not compute what a run does; "" where it does.

    It takes of both towers what they call the pooled output: the first token after a dense layer and tanh.
    """
    for encoder in (image, text):
        if problem := missing_class(encoder, "pooler"):
            return problem
    if problem := image_model_problem(image, layout):
        return problem
    for name, pooling, encoder in (("image", image_pooling, image), ("text", text_pooling, text)):
        if pooling != _POOLER or encoder.pooler != "tanh":
            return (
                f"--format=hf: transformers' VisionTextDualEncoderModel takes the pooled output of both towers, but "
                f"this run was trained with config.task.{name}_pooling={pooling}. Train with "
                "task.image_pooling=pooler and task.text_pooling=pooler to export, or use jaxfm.predict."
            )
    if biased:
        return "--format=hf: transformers' VisionTextDualEncoderModel has no bias of similarities (task.loss=sigmoid)."
    return ""


def write_dual_encoder(
    folder: pathlib.Path,
    image: EncoderConfig,
    text: EncoderConfig,
    *,
    params: Mapping[str, np.ndarray],
    layout: ImageLayout,
    pad_token_id: int,
) -> None:
    """Writes config.json and model.safetensors.

    Args:
      folder: where to; it exists.
      image: of the image tower, "encoder/..." in `params`.
      text: of the text tower, "text_encoder/...".
      params: path -> array of every parameter of `models.two_towers.TwoTowers`.
      layout: how images become pixels.
      pad_token_id: of the tokenizer.
    """
    own = {
        **{name: value for name, value in params.items() if name.startswith("encoder/")},
        **_renamed(params, "image_pooler/", "pooler/"),
    }
    written, own = with_whole_heads(*written_positions(image, own, layout))
    other = {**_renamed(params, "text_encoder/", "encoder/"), **_renamed(params, "text_pooler/", "pooler/")}
    plans = {"vision_model": plan_model(written, "", own), "text_model": plan_model(text, "", other)}
    between = {
        "visual_projection.weight": np.ascontiguousarray(params["image_projection/kernel"].T),
        "text_projection.weight": np.ascontiguousarray(params["text_projection/kernel"].T),
        # transformers has no limit of the factor; here it is at most 100.
        "logit_scale": np.minimum(np.asarray(params["log_scale"], np.float32), np.float32(math.log(100.0))),
    }
    config = {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": "vision-text-dual-encoder",
        "vision_config": hf_config(written, pad_token_id=None, labels=()),
        "text_config": hf_config(text, pad_token_id=pad_token_id, labels=()),
        "projection_dim": int(params["text_projection/kernel"].shape[1]),
        "logit_scale_init_value": float(between["logit_scale"]),
        "dtype": "float32",
    }
    files.write_json(folder / "config.json", config)

    shapes = {name: value.shape for name, value in between.items()}
    for tower, plan in plans.items():
        shapes |= {f"{tower}.{name}": shape for name, shape in plan.shapes.items()}

    def parts(name: str) -> Iterator[np.ndarray]:
        if name in between:
            yield between[name]
        else:
            tower, _, own_name = name.partition(".")
            yield from plans[tower].read(own_name)

    write_f32(folder / "model.safetensors", shapes, parts)


def _renamed(params: Mapping[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new + name.removeprefix(old): value for name, value in params.items() if name.startswith(old)}
