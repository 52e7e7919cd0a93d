"""Positions of patches as transformers' classes of images have them: a table for squares of one size."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.models.inputs.patches import position_table


def image_model_problem(encoder: EncoderConfig, layout: ImageLayout) -> str:
    """Returns why no class of transformers reads images as a run does; "" where one does."""
    if layout.rule == "native":
        return "--format=hf: transformers' class reads squares of one size; this run reads images as they are."
    if encoder.position_embedding not in ("learned", "sine"):
        return (
            f"--format=hf: transformers' class has a table of positions; this run's are {encoder.position_embedding!r}."
        )
    return ""


def written_positions(
    encoder: EncoderConfig, params: Mapping[str, np.ndarray], layout: ImageLayout
) -> tuple[EncoderConfig, dict[str, np.ndarray]]:
    """Returns an encoder and parameters with a table of positions for the squares that are read.

    Fixed waves become a table, and entries that are read between those of a table of another size become as they are
    read.
    """
    assert layout.rule != "native" and encoder.position_embedding in ("learned", "sine")
    size = encoder.patches.size
    grid = (layout.side // size, layout.side // size)
    path = "encoder/embeddings/position/embedding"
    table = position_table(encoder, params.get(path), grid)
    written = dataclasses.replace(
        encoder,
        position_embedding="learned",
        patches=dataclasses.replace(encoder.patches, grid=grid),
        max_positions=encoder.patches.prefix + grid[0] * grid[1],
    )
    return written, {**params, path: table}
