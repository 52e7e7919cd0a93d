"""How a run reads sound: keys of its config, the encoder, the frames and the changes that these ask for."""

import dataclasses

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings
from jaxfm.errors import UserError
from jaxfm.families.registry import presets
from jaxfm.models.inputs.frames import hop_size, window_size
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation
from jaxfm.schema import field
from jaxfm.tasks.media_options import row_length

_LEAST_RATE, _MOST_RATE = 4_000, 192_000


@dataclasses.dataclass(frozen=True)
class SoundConfig:
    """How a recording becomes frames.

    The numbers 0 stand for what the weights were made for, or of weights from scratch for the preset's.
    """

    sample_rate: int = field(
        0, "samples a second to which recordings are resampled; 0: those of the weights, or 16000", at_least=0
    )
    seconds: float = field(
        0.0,
        "what is read of a recording at most, a longer one is cut; from scratch alone; 0: what the positions of "
        "the weights "
        "or of the preset cover",
        at_least=0.0,
    )
    mels: int = field(0, "mel bands of a frame; 0: those of the weights, or of the preset", at_least=0)
    lengths: str = field(
        "auto",
        "clips in their own length (native; with data.packed=True several share a row), or filled up to the longest "
        "(padded, as transformers does it); auto: as the weights say, or native",
        choices=("auto", "native", "padded"),
    )
    broken_files: str = field(
        "stop", "a file that cannot be decoded ends the run, or is left out and counted", choices=("stop", "skip")
    )


@dataclasses.dataclass(frozen=True)
class SoundAugmentConfig:
    """Changes of training clips, drawn on the device for each clip and step."""

    shift: float = field(0.0, "most seconds that a recording is moved, earlier or later; 0: none", at_least=0.0)
    noise: float = field(
        0.0, "most white noise, as a share of the recording's own root mean square; 0: none", at_least=0.0, at_most=10.0
    )
    time_masks: int = field(
        0, "SpecAugment (Park et al. 2019): stretches of time that are hidden; 0: none", at_least=0, at_most=100
    )
    time_width: int = field(
        20, "of these: most frames of 10 ms, and at most half of the recording", at_least=0, at_most=10_000
    )
    frequency_masks: int = field(
        0, "SpecAugment: ranges of mel bands that are hidden; 0: none", at_least=0, at_most=100
    )
    frequency_width: int = field(10, "of these: most mel bands", at_least=0, at_most=1_000)


def augmentation(config: Config) -> SoundAugmentation | None:
    """Returns what is done to training clips; None: nothing."""
    found = _asked(config.task.augment)
    return found if found.changes else None


def _asked(keys: SoundAugmentConfig) -> SoundAugmentation:
    return SoundAugmentation(
        shift=keys.shift,
        noise=keys.noise,
        time_masks=keys.time_masks,
        time_width=keys.time_width,
        frequency_masks=keys.frequency_masks,
        frequency_width=keys.frequency_width,
    )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a run reads sound.

    Attributes:
      encoder: with the patches that are read.
      layout: how a recording becomes frames; without a deviation where only the data have one.
      row_length: tokens of a row.
    """

    encoder: EncoderConfig
    layout: SoundLayout
    row_length: int

    @classmethod
    def of(cls, config: Config, encoder: EncoderConfig, given: SoundLayout | None = None) -> "Reading":
        """Finds what the config asks for.

        Args:
          config: of the run; its task has the keys of `SoundConfig`.
          encoder: of the weights, or of a preset.
          given: what the files beside the weights say.

        Raises:
          UserError: an encoder of something else, bands or a length that the weights do not have, rows that are too
            short.
        """
        task, scratch = config.task, config.model.init == "scratch"
        _check_encoder(encoder)
        given = given or SoundLayout()
        rate = task.sample_rate or given.rate
        if not _LEAST_RATE <= rate <= _MOST_RATE:
            raise UserError(f"config.task.sample_rate: is {rate}, but must be from {_LEAST_RATE} to {_MOST_RATE}.")
        patches = encoder.patches
        for key, value, own in (("mels", task.mels, patches.mels), ("sample_rate", task.sample_rate, given.rate)):
            if value and value != own and not scratch:
                raise UserError(f"config.task.{key}: is {value}, but the weights have {own}. Leave it 0.")
        if task.seconds and not scratch:
            raise UserError(
                f"config.task.seconds: is {task.seconds}, but the weights say how long a recording is. Leave it 0."
            )
        mels = task.mels or patches.mels
        if patches.size == patches.mels:  # all bands, however many
            patches = dataclasses.replace(patches, size=mels, stride=(mels, patches.stride[1]), mels=mels)
        if mels < patches.size:
            raise UserError(f"config.task.mels: is {mels}, but a patch has {patches.size} bands. Take that, or more.")
        frames = given.frames or (patches.grid[1] - 1) * patches.stride[1] + patches.span
        if task.seconds:
            frames = int((task.seconds * rate - window_size(rate)) / hop_size(rate)) + 1
        if frames < patches.span:
            raise UserError(
                f"config.task.seconds: is {task.seconds}, but a patch alone has {patches.span} frames, 10 ms apart."
            )
        grid = ((mels - patches.size) // patches.stride[0] + 1, (frames - patches.span) // patches.stride[1] + 1)
        if not scratch and grid != patches.grid:
            raise UserError(
                f"config.model.init: its positions are for {patches.grid[1]} patches along time, but the extractor "
                f"beside it reads {frames} frames, which are {grid[1]}."
            )
        patches = dataclasses.replace(patches, grid=grid, mels=mels)
        most = patches.prefix + grid[0] * grid[1]
        padded = given.padded if task.lengths == "auto" else task.lengths == "padded"
        layout = SoundLayout(rate, frames, padded, given.mean, given.std)
        shaped = dataclasses.replace(encoder, patches=patches, max_positions=most)
        return cls(shaped, layout, row_length(config, most, "a recording"))

    @property
    def settings(self) -> FrameSettings:
        """How clips become rows."""
        return FrameSettings(self.layout, self.encoder.patches)

    def with_statistics(self, mean: float, std: float) -> "Reading":
        """Returns the same with the mean and deviation of frames."""
        return dataclasses.replace(self, layout=dataclasses.replace(self.layout, mean=mean, std=std))


def _check_encoder(encoder: EncoderConfig) -> None:
    if encoder.reads_sound:
        return
    readers = [name for name, shape in presets().items() if shape.reads_sound]
    families = dict.fromkeys(presets()[name].family for name in readers)
    raise UserError(
        f"config.model: an encoder of family {encoder.family or 'none'!r} reads "
        f"{'images' if encoder.reads_images else 'texts'}, and this task reads sound. Take one of sound: "
        f"--config.model.init=scratch --config.model.preset={readers[0]} (or {', '.join(readers[1:])}), or weights of "
        f"{', '.join(families)}."
    )
