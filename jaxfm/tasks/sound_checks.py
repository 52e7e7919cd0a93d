"""Checks of clips before training: broken files, copies, silence, lengths."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import SoundExample
from jaxfm.data.audio.stored import BadSoundError
from jaxfm.observe.tables import Table
from jaxfm.tasks.media_checks import check_broken, check_copies
from jaxfm.tasks.sound_options import Reading


def check_sounds(examples: Mapping[str, Sequence[SoundExample]], reading: Reading) -> DataCheck:
    """Decodes every clip once and says what holds of clips, whatever is learned of them.

    Args:
      examples: of each split, "train" first.
      reading: how they are read.
    """
    seconds: dict[str, list[float]] = {}
    broken: list[str] = []
    silent: list[str] = []
    long: list[str] = []
    places: dict[str, dict[str, str]] = {}
    rate, most = reading.layout.rate, reading.settings.most_samples
    for split, found in examples.items():
        seconds[split], places[split] = [], {}
        for example in found:
            try:
                content = example.clip.content()
                samples = decode(example.clip, rate, content)
            except BadSoundError as error:
                broken.append(str(error))
                continue
            seconds[split].append(len(samples) / rate)
            places[split].setdefault(example.clip.digest(content), example.origin)
            if np.ptp(samples) == 0:
                silent.append(example.origin)
            if len(samples) > most:
                long.append(f"{example.origin}: {len(samples) / rate:.2f} seconds")
    rows = [
        (split, len(found), round(statistics.median(found or [0.0]), 2), round(max(found, default=0.0), 2))
        for split, found in seconds.items()
    ]
    fix = "repair or remove them, or leave them out with --config.task.broken_files=skip"
    findings = [
        check_broken(broken, "clips", fix),
        check_copies(places, examples, "clips"),
        _silent(silent),
        _long(long, most / rate),
    ]
    lengths = Table("Splits", ("split", "clips", "median seconds", "longest"), rows)
    return DataCheck((lengths,), tuple(findings))


def _silent(silent: Sequence[str]) -> Finding:
    if not silent:
        return Finding("ok", "silence", "no recording is silent")
    message = f"clips in which all samples are equal: {len(silent):,}"
    return Finding("warning", "silence", message, "leave them out, unless silence is a class", tuple(silent))


def _long(long: Sequence[str], seconds: float) -> Finding:
    if not long:
        return Finding("ok", "lengths", f"every recording is read whole: {seconds:.2f} seconds at most")
    message = f"clips longer than the {seconds:.2f} seconds that are read, which are cut: {len(long):,}"
    return Finding("warning", "lengths", message, "cut them, or read more: --config.task.seconds", tuple(long))
