"""The images that a classifier has most wrong: as lines of the report, and as a sheet of pictures."""

# E images, C classes

import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxfm.data.images.examples import ImageExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.image_sheets import Tile, draw_sheet
from jaxfm.tasks.image_classification.spec import ImageClassifierSpec
from jaxfm.tasks.segment_scorer import wrong_facts


def worst_images(
    spec: ImageClassifierSpec, examples: Sequence[ImageExample], found_EC: np.ndarray, loss_E: np.ndarray
) -> list[tuple[int, WrongExample]]:
    """Returns number and facts of what is predicted wrongly, that of the largest loss first, at most `SHOWN`.

    Args:
      spec: of the model.
      examples: with their labels.
      found_EC: probabilities.
      loss_E: of each image, in nats.
    """
    shown: list[tuple[int, WrongExample]] = []
    for index in np.argsort(-loss_E, kind="stable").tolist():
        if len(shown) == SHOWN:
            break
        facts = wrong_facts(spec, examples[index], found_EC[index])
        if facts:
            told = (*facts, ("loss", float(loss_E[index])))
            name = examples[index].image.origin
            shown.append((index, WrongExample(examples[index].origin, (View("image", name),), told)))
    return shown


def sheet(worst: Sequence[tuple[int, WrongExample]], rows: ImageRows) -> dict[str, Callable[[pathlib.Path], None]]:
    """Returns what draws the pictures of `worst_images`; empty where nothing is wrong."""
    if not worst:
        return {}

    def draw(path: pathlib.Path) -> None:
        tiles = []
        for index, example in worst:
            facts = dict(example.facts)
            lines = (f"is {facts['gold']}", f"taken for {facts['predicted']}")
            share = facts.get("probability")
            tiles.append(Tile(rows.image(index), (*lines, *([f"p {share:.2f}"] if share is not None else []))))
        draw_sheet(tiles, path, title="Worst errors: images whose class was least expected")

    return {"worst_errors": functools.partial(draw)}
