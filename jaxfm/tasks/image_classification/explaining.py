"""What the classes or labels of images are due to, patch by patch."""

# E images, C classes

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.explained import Explained, Picture, Target, TokenPlace
from jaxfm.data.images.rows import ImageRows
from jaxfm.tasks.image_classification.spec import ImageClassifierSpec

NO_TOKEN = 0
"""In place of a token that means nothing: pixels have grey."""


def explained_images(
    spec: ImageClassifierSpec, rows: ImageRows, results: Sequence[Mapping[str, Any]], probabilities_EC: np.ndarray
) -> list[Explained]:
    """Returns of each image its likeliest class, or each label that holds, as targets.

    Args:
      spec: of the classifier.
      rows: of the images.
      results: of the images.
      probabilities_EC: calibrated.
    """
    explained, prefix = [], rows.settings.prefix
    for image, (row, segment) in enumerate(rows.example_locations.tolist()):
        start = int(rows.lengths[rows.members[row][:segment]].sum())
        height, width = rows.grids[image].tolist()
        patches = start + prefix + np.arange(height * width)
        tokens = tuple(
            TokenPlace(row, place, "image", number, number + 1) for number, place in enumerate(patches.tolist())
        )
        read = np.concatenate(
            [[start] if "cls" in spec.pooling else [], patches if "mean" in spec.pooling else []]
        ).astype(np.int64)
        reads = np.stack([np.full(len(read), row), read], axis=-1)
        found_C = probabilities_EC[image]
        chosen = [int(np.argmax(found_C))]
        if spec.kind == "multi":
            chosen = np.flatnonzero(found_C >= spec.threshold).tolist()
        ranked = {spec.labels[each]: float(found_C[each]) for each in np.argsort(-found_C, kind="stable").tolist()}
        targets = tuple(
            Target(
                {"label": spec.labels[number]},
                np.asarray([[row, segment, number]]),
                np.ones(1),
                reads,
                {name: each for name, each in ranked.items() if spec.kind == "single" and name != spec.labels[number]},
            )
            for number in chosen
        )
        picture = Picture(rows.image(image), (height, width))
        explained.append(Explained(results[image], {}, targets, tokens, NO_TOKEN, picture=picture))
    return explained
