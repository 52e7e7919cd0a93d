"""What tasks on images share: keys of their configs, the encoder and the pixels that these ask for."""

# C channels

import dataclasses

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.data.images.decoding import check_patch
from jaxfm.data.images.examples import ImageColumns
from jaxfm.errors import UserError
from jaxfm.families.registry import presets
from jaxfm.models.inputs.augmentation import BORDERS, Augmentation, check_augmentation
from jaxfm.schema import field
from jaxfm.tasks.media_options import row_length


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """How an image becomes patches.

    The numbers 0 stand for what the weights were made for, or of weights from scratch for the preset's.
    """

    image_size: int = field(
        0, "side of the square that is read, in pixels; 0: that of the weights, or of the preset", at_least=0
    )
    patch_size: int = field(
        0, "side of a patch in pixels, which divides image_size; 0: that of the weights, or of the preset", at_least=0
    )
    channels: int = field(0, "3 colours, or 1: grey; 0: those of the weights, or 3", choices=(0, 1, 3))
    resize: str = field(
        "auto",
        "to image_size: whatever the shape (squash), or its middle (crop); native: its own shape in whole patches, "
        "as many as that square has at most (with data.packed=True several images share a row); auto: as the weights "
        "say, or squash",
        choices=("auto", "squash", "crop", "native"),
    )
    broken_images: str = field(
        "stop", "a file that cannot be decoded ends the run, or is left out and counted", choices=("stop", "skip")
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Changes of training images, drawn on the device for each image and step."""

    crop: float = field(
        0.0, "least share of the area of a random crop, resized back (Szegedy et al. 2015: 0.08); 0: none",
        at_least=0.0, at_most=1.0,
    )  # fmt: skip
    pad_crop: int = field(0, "most pixels that an image is shifted by; 0: none", at_least=0)
    flip: bool = field(False, "half of the images are mirrored, left for right")
    border: str = field(
        "reflect", "what lies outside of a moved image: its mirrored pixels, or black (zero)", choices=BORDERS
    )
    operations: int = field(0, "changes of RandAugment (Cubuk et al. 2020) an image; 0: none", at_least=0)
    magnitude: float = field(9.0, "of these, 0 to 10: how strong they are", at_least=0.0, at_most=10.0)
    erase: float = field(
        0.0, "share of the images in which a rectangle is erased (Zhong et al. 2020)", at_least=0.0, at_most=1.0
    )
    mixup: float = field(
        0.0, "two images and their labels are mixed, by a share of Beta(a, a) (Zhang et al. 2018: 0.8); 0: none",
        at_least=0.0,
    )  # fmt: skip
    cutmix: float = field(
        0.0, "a rectangle is taken from another image, by a share of Beta(a, a) (Yun et al. 2019: 1); 0: none",
        at_least=0.0,
    )  # fmt: skip


def augmentation(config: Config, *, mixes: bool = True) -> Augmentation | None:
    """Returns what is done to training images; None: nothing.

    Args:
      config: of the run; its task has the group `augment`.
      mixes: whether the task can mix images, which mixes their labels too.

    Raises:
      UserError: images that cannot be mixed: several a row, an odd number of rows in a batch, a task without labels.
    """
    found = _asked(config.task.augment)
    if found.mixes and not mixes:
        name = "mixup" if found.mixup else "cutmix"
        raise UserError(
            f"config.task.augment.{name}: is {getattr(found, name)}, but mixes labels, and this task has none."
        )
    rows = max(config.train.batch_size, 0) // config.train.accumulate  # 0: a number that the run finds, an even one
    one_size = not config.data.packed and config.task.resize != "native"
    check_augmentation(found, one_size=one_size, batch_size=rows, option="config.task.augment")
    return found if found.changes_pixels or found.mixes else None


def _asked(keys: AugmentConfig) -> Augmentation:
    return Augmentation(
        crop=keys.crop,
        pad_crop=keys.pad_crop,
        flip=keys.flip,
        rand_augment=(keys.operations, keys.magnitude if keys.operations else 0.0),
        erase=keys.erase,
        mixup=keys.mixup,
        cutmix=keys.cutmix,
        border=keys.border,
    )


def image_columns(config: Config) -> ImageColumns:
    """Returns the fields that the config names."""
    return ImageColumns(config.data.image_column, config.data.label_column, config.data.text_column)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a run reads images.

    Attributes:
      encoder: with the patches that are read.
      layout: how an image becomes pixels; without mean and deviation where only the data have these.
      row_length: tokens of a row.
    """

    encoder: EncoderConfig
    layout: ImageLayout
    row_length: int

    @classmethod
    def of(cls, config: Config, encoder: EncoderConfig, given: ImageLayout | None = None) -> "Reading":
        """Finds what the config asks for.

        Args:
          config: of the run; its task has the keys of `ImageConfig`.
          encoder: of the weights, or of a preset.
          given: what the files beside the weights say.

        Raises:
          UserError: an encoder of texts, patches that the weights do not have, ones that do not divide the image or
            leave too few tokens, rows that are too short, several images in a row where each is to have its own.
        """
        task, scratch = config.task, config.model.init == "scratch"
        given = given or ImageLayout()
        patches = _patches(encoder, task, scratch=scratch)
        side = task.image_size or given.side or encoder.patches.grid[0] * encoder.patches.size
        check_patch(side, patches.size)
        rule = task.resize if task.resize != "auto" else given.rule
        grid = (side // patches.size,) * 2
        patches = dataclasses.replace(patches, grid=grid if scratch else encoder.patches.grid)
        most = patches.prefix + grid[0] * grid[1]
        shorter = given.shorter_side if rule == "crop" and side == given.side else 0
        shaped = dataclasses.replace(encoder, patches=patches, max_positions=most)
        layout = ImageLayout(side, rule, shorter, given.mean, given.std)
        return cls(shaped, layout, row_length(config, most, "an image"))

    def with_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "Reading":
        """Returns the same with the mean and deviation of channels."""
        return dataclasses.replace(self, layout=dataclasses.replace(self.layout, mean=mean, std=std))


def _patches(encoder: EncoderConfig, task: ImageConfig, *, scratch: bool) -> PatchConfig:
    """Returns the patches of an encoder, of the size that a config asks for."""
    patches = encoder.patches
    if not encoder.reads_images:
        readers = [name for name, shape in presets().items() if shape.reads_images]
        families = dict.fromkeys(presets()[name].family for name in readers)
        raise UserError(
            f"config.model: an encoder of family {encoder.family or 'none'!r} reads "
            f"{'sound' if encoder.reads_sound else 'texts'}, and this task reads images. "
            f"Take one of images: --config.model.init=scratch --config.model.preset={readers[0]} (or {readers[1]}, ...)"
            f", or weights of {', '.join(families)}."
        )
    asked = {"patch_size": (task.patch_size, patches.size), "channels": (task.channels, patches.channels)}
    for name, (value, own) in asked.items():
        if value and value != own and not scratch:
            raise UserError(f"config.task.{name}: is {value}, but the weights have {own}. Leave it 0.")
    size, channels = (value or own for value, own in asked.values())
    return dataclasses.replace(patches, size=size, channels=channels)
