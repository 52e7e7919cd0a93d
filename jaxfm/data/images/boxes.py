"""Images with the objects in them: what each source gives, and the rules that its boxes keep."""

# n objects of an image

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.images.decoding import decode, readable_formats
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.errors import UserError

BAD_BOXES = ("stop", "skip")
EDGE = 1.0
"""Pixels that a box may reach over an edge of its image: rounding. It is cut there, and counted."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BoxedExample:
    """One image and its objects.

    Attributes:
      image: where it is kept; it is not decoded yet.
      size: its height and width in pixels.
      boxes: f64 [n, 4] left, top, right and bottom in pixels.
      labels: class of each.
      crowds: bool [n]; boxes of several objects that nobody told apart: they are not learned, and what is found in them
        is neither right nor wrong (COCO's iscrowd).
      areas: f64 [n] pixels of each object, by which scores call it small or large; of its box where no other is known.
      origin: where it was read.
    """

    image: StoredImage
    size: tuple[int, int]
    boxes: np.ndarray
    labels: tuple[str, ...]
    crowds: np.ndarray
    areas: np.ndarray
    origin: str

    @property
    def learned(self) -> np.ndarray:
        """Numbers of the objects that are no crowds."""
        return np.flatnonzero(~self.crowds)


@dataclasses.dataclass(frozen=True)
class BoxedSplit:
    """One split.

    Attributes:
      examples: in the order of the source.
      classes: names that the source declares, in its order.
      note: a line for the log.
    """

    examples: tuple[BoxedExample, ...]
    classes: tuple[str, ...]
    note: str


class BoxRules:
    """Checks boxes, and counts those that were cut or left out."""

    def __init__(self, bad: str, broken: str = "stop") -> None:
        """Each is "stop", which makes an error of it, or "skip".

        `bad` is of a box that breaks a rule, `broken` of an image whose size cannot be read.
        """
        assert {bad, broken} <= set(BAD_BOXES)
        self.bad, self.cut, self.left_out = bad, 0, 0
        self.broken, self.unread = broken, 0

    def size(self, image: StoredImage) -> tuple[int, int] | None:
        """Returns `image_size`; None of an image that is left out."""
        try:
            return image_size(image)
        except BadImageError as error:
            if self.broken == "stop":
                raise BadImageError(
                    f"{error} Repair or remove it, or set config.task.broken_images=skip to leave such images out."
                ) from None
            self.unread += 1
            return None

    def checked(self, box: Sequence[float], size: tuple[int, int], origin: str) -> tuple[float, ...] | None:
        """Returns a box inside its image; None where it is left out.

        Args:
          box: left, top, right, bottom in pixels.
          size: height and width of the image.
          origin: where it was read.

        Raises:
          UserError: the box has no area, or lies outside by more than `EDGE`.
        """
        height, width = size
        left, top, right, bottom = box
        problem = ""
        if not np.isfinite(box).all():
            problem = "has a number that is not finite"
        elif right <= left or bottom <= top:
            problem = f"has no area ({right - left:g} x {bottom - top:g} pixels)"
        elif min(left, top) < -EDGE or right > width + EDGE or bottom > height + EDGE:
            problem = f"lies outside its image of {width} x {height} pixels"
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if not problem and (inside[2] <= inside[0] or inside[3] <= inside[1]):
            problem = f"lies outside its image of {width} x {height} pixels"
        if problem and self.bad == "stop":
            shown = ", ".join(f"{value:g}" for value in box)
            raise UserError(
                f"{origin}: the box (left, top, right, bottom: {shown}) {problem}. Correct it, or leave such boxes out "
                "and have them counted: config.task.bad_boxes=skip."
            )
        if problem:
            self.left_out += 1
            return None
        self.cut += inside != tuple(map(float, box))
        return inside

    def note(self) -> str:
        """Returns what was repaired, for the note of a split; "" where nothing was."""
        said = (
            [f"{self.cut:,} boxes cut at the edge of their image (at most {EDGE:g} pixel outside)"] if self.cut else []
        )
        said += [f"{self.left_out:,} boxes without area or outside their image left out"] if self.left_out else []
        said += [f"{self.unread:,} broken images left out"] if self.unread else []
        return "".join(f"; {each}" for each in said)


def example_of(
    image: StoredImage,
    size: tuple[int, int],
    objects: Sequence[tuple[Sequence[float], str, bool, float]],
    origin: str,
) -> BoxedExample:
    """Returns an image with (box, class, is a crowd, area; 0: that of the box) of each object."""
    boxes = np.asarray([box for box, *_ in objects], np.float64).reshape(-1, 4)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    given = np.asarray([area for *_, area in objects], np.float64)
    return BoxedExample(
        image,
        size,
        boxes,
        tuple(label for _, label, _, _ in objects),
        np.asarray([crowd for _, _, crowd, _ in objects], bool),
        np.where(given > 0, given, own) if len(objects) else own,
        origin,
    )


def image_size(image: StoredImage) -> tuple[int, int]:
    """Returns height and width of an image as a person sees it, of a file from its header alone.

    Raises BadImageError where it cannot be read.
    """
    from PIL import Image, ImageOps

    if image.path is not None and image.size < 0:
        try:
            with Image.open(image.path, formats=readable_formats()) as picture:
                turned = picture.getexif().get(ImageOps.ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
                width, height = picture.size
                return (width, height) if turned else (height, width)
        except Exception:  # of any kind: `decode` says what is wrong
            pass
    height, width, _ = decode(image, 3).shape
    return height, width


def check_classes(read: Mapping[str, BoxedSplit], known: Sequence[str], what: str) -> None:
    """Raises UserError for an object whose class is not among the known ones, `what` names their origin."""
    names = set(known)
    for split in read.values():
        for example in split.examples:
            for label in example.labels:
                if label not in names:
                    raise UserError(
                        f"{example.origin}: the class {label!r} is not among the {len(names)} of {what}: "
                        f"{', '.join(map(repr, known[:20]))}{' ...' if len(known) > 20 else ''}."
                    )


def counted(examples: Sequence[BoxedExample]) -> str:
    """Returns numbers of images and objects in words."""
    objects = sum(len(each.learned) for each in examples)
    crowds = sum(int(each.crowds.sum()) for each in examples)
    empty = sum(not len(each.learned) for each in examples)
    said = f"{len(examples):,} images with {objects:,} objects"
    said += f", {empty:,} images without any" if empty else ""
    return said + (f", {crowds:,} crowds that are not learned" if crowds else "")
