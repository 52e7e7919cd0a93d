"""A trained encoder of images as a Hugging Face directory: config.json and weights."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.image_positions import written_positions
from jaxfm.hub.weights import write_tensors
from jaxfm.hub.whole_heads import with_whole_heads


def write_image_model(
    folder: pathlib.Path,
    encoder: EncoderConfig,
    *,
    head: str,
    params: Mapping[str, np.ndarray],
    layout: ImageLayout,
    labels: tuple[str, ...] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes what transformers' class of the head opens.

    Its table of positions is for images of one size: fixed waves are written as a table, and entries that are read
    between those of a table of another size are written as they are read.

    Args:
      folder: where to; it exists.
      encoder: low-rank updates that it names must be merged into `params`.
      head: kind of the head in `params`; "": the encoder alone.
      params: path -> array of every parameter of encoder and head.
      layout: how images become pixels: squares.
      labels: class names of the head, in the order of their numbers.
      extra: further values of config.json.

    Raises:
      UserError: transformers has no class for that encoder and head.
    """
    written, params = with_whole_heads(*written_positions(encoder, params, layout))
    config = hf_config(written, head=head, pad_token_id=None, labels=labels)
    files.write_json(folder / "config.json", {**config, **(extra or {})})
    write_tensors(folder / "model.safetensors", written, head, params)
