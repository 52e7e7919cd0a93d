"""A picture of which heads of an encoder were kept."""

# S stacks of weights, N heads

import os
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.observe.plots import COLOURS, INK, new_figure, save_figure, style


def plot_kept_heads(importance_SN: np.ndarray, kept: Mapping[str, Sequence[int]], path: str | os.PathLike[str]) -> None:
    """Draws the importance of each head of each layer as a share of the largest, those that were dropped crossed out.

    Args:
      importance_SN: of all heads before pruning.
      kept: number of a layer -> its heads; layers that are not named were dropped whole.
      path: the PNG file.

    Raises OSError when it cannot be written.
    """
    layers, heads = importance_SN.shape
    figure = new_figure(1.8 + 0.3 * layers)
    axes = figure.subplots()
    largest = float(importance_SN.max()) or 1.0
    image = axes.imshow(np.sqrt(importance_SN / largest), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for layer in range(layers):
        for head in range(heads):
            if head not in kept.get(str(layer), ()):
                axes.text(head, layer, "×", ha="center", va="center", color=COLOURS[1], fontsize=11)
    style(
        axes,
        title="Importance of heads (square root, the largest is 1); × were dropped",
        x_label="head",
        y_label="layer",
    )
    axes.set_xticks(range(heads))
    axes.set_yticks(range(layers))
    axes.tick_params(length=0, colors=INK)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    save_figure(figure, path)
