"""Checks of transcripts before training: their characters, and the sizes of their splits."""

import collections
import statistics
from collections.abc import Mapping, Sequence

from jaxfm.core.data_check import Finding
from jaxfm.data.audio.examples import SoundExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.sound_options import Reading
from jaxfm.tasks.speech_recognition.symbols import steps_needed

_RARE = 5  # occurrences in training below which a character is hardly learned


def check_transcripts(
    examples: Mapping[str, Sequence[SoundExample]], reading: Reading
) -> tuple[Table, tuple[Finding, ...]]:
    """Returns a table of transcripts and what is odd in them.

    Args:
      examples: of each split, "train" first, with transcripts as they are learned.
      reading: how clips are read.
    """
    rows = [
        (split, len(found), sum(len(each.text.split()) for each in found), _median(found), _longest(found))
        for split, found in examples.items()
    ]
    table = Table("Transcripts", ("split", "clips", "words", "median characters", "longest"), rows)
    counts = collections.Counter(letter for each in examples["train"] for letter in each.text)
    unseen = {
        letter: each.origin
        for split, found in examples.items()
        if split != "train"
        for each in found
        for letter in each.text
        if letter not in counts
    }
    findings = (_rare(counts), _unseen(unseen), _too_many(examples, reading.encoder.patches.grid[1]))
    return table, findings


def _median(examples: Sequence[SoundExample]) -> float:
    return float(statistics.median([len(each.text) for each in examples] or [0]))


def _longest(examples: Sequence[SoundExample]) -> int:
    return max((len(each.text) for each in examples), default=0)


def _rare(counts: Mapping[str, int]) -> Finding:
    rare = [f"{letter!r}: {count}" for letter, count in sorted(counts.items()) if count < _RARE]
    if not rare:
        return Finding("ok", "rare characters", f"each of the {len(counts)} characters occurs {_RARE} times or more")
    message = f"characters that occur less than {_RARE} times in training: {len(rare)}"
    return Finding("warning", "rare characters", message, "spell them otherwise, or leave them out", tuple(rare))


def _unseen(unseen: Mapping[str, str]) -> Finding:
    if not unseen:
        return Finding("ok", "unseen characters", "all characters of other splits occur in training")
    found = tuple(f"{letter!r}: {origin}" for letter, origin in sorted(unseen.items()))
    message = f"characters of other splits that training has none of, which cannot be recognised: {len(unseen)}"
    return Finding("warning", "unseen characters", message, "spell them otherwise", found)


def _too_many(examples: Mapping[str, Sequence[SoundExample]], most: int) -> Finding:
    found = tuple(
        f"{each.origin}: needs {steps} steps"
        for split in examples.values()
        for each in split
        if (steps := steps_needed([ord(letter) for letter in each.text])) > most
    )
    if not found:
        return Finding("ok", "long transcripts", f"none needs more than the {most} steps of the longest recording")
    message = f"transcripts that need more than the {most} steps of the longest recording that is read: {len(found):,}"
    return Finding("warning", "long transcripts", message, "read more: --config.task.seconds", found)
