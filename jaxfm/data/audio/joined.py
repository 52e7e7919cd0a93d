"""Clips joined to longer ones, with their texts: strings of digits out of single ones."""

from collections.abc import Sequence

import numpy as np

from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import SoundExample
from jaxfm.data.audio.stored import BadSoundError, StoredClip
from jaxfm.errors import UserError

_SEED = 20060625


def join_clips(
    examples: Sequence[SoundExample], rate: int, *, fewest: int, most: int, count: int, gap: float, seed: int
) -> tuple[SoundExample, ...]:
    """Returns `count` clips, each of some of the given ones, drawn anew, and their texts with a space between.

    Example i of a seed is the same however many are asked for. Clips with labels are joined with those of the same
    labels alone (a speaker's).

    Args:
      examples: clips with texts; those that cannot be decoded are not drawn.
      rate: samples a second.
      fewest: clips of a joined one at least.
      most: and at most; each number is as likely.
      count: joined clips.
      gap: most seconds of silence between two.
      seed: of the draws.

    Raises:
      UserError: none of the clips can be decoded.
    """
    sounds: list[np.ndarray] = []
    texts: list[str] = []
    groups: dict[tuple[str, ...], list[int]] = {}
    broken: list[BadSoundError] = []
    for example in examples:
        try:
            samples = decode(example.clip, rate)
        except BadSoundError as error:
            broken.append(error)
            continue
        groups.setdefault(example.labels, []).append(len(sounds))
        sounds.append(samples)
        texts.append(example.text)
    if not sounds:
        raise UserError(f"None of the {len(examples):,} clips can be decoded. The first: {broken[0]}")
    group_of = [group for group, members in groups.items() for _ in members]  # one is drawn as often as it has clips
    found = []
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64([_SEED, seed, number]))
        members = groups[group_of[rng.integers(len(group_of))]]
        chosen = [members[index] for index in rng.integers(len(members), size=rng.integers(fewest, most + 1))]
        parts: list[np.ndarray] = []
        for index in chosen:
            if parts:
                parts.append(np.zeros(round(rate * rng.uniform(0.0, gap)), np.float32))
            parts.append(sounds[index])
        origin = f"joined[{number}]"
        clip = StoredClip(origin, array=np.concatenate(parts), rate=rate)
        found.append(SoundExample(clip, (), " ".join(texts[index] for index in chosen), origin))
    return tuple(found)
