"""A drawn shop for recommendation: users who follow two threads at once, and the best that can be known of them.

Items belong to genres. Each user has two genres; at each step one of them, chosen by a coin, goes on: its next item
depends on the last item that the user took of that genre. Nobody takes an item twice. So the last item alone says
little, and the best possible ranking can be computed (`best_scores`).
"""

# G genres, M items of a genre, I = G M items

import dataclasses
from collections.abc import Iterator

import numpy as np

_GENRES = ("tea", "tools", "books", "games", "garden", "music")
_SUCCESSORS = (0.6, 0.25, 0.1)  # probabilities of an item's three successors; the rest is shared by its genre


@dataclasses.dataclass(frozen=True)
class Shop:
    """How items follow one another.

    Attributes:
      genres: names.
      chance: float64 [G, M, M] probability of the next item of a genre given the last one.
    """

    genres: tuple[str, ...]
    chance: np.ndarray

    @property
    def items(self) -> tuple[str, ...]:
        """Names of all items, genre by genre."""
        return tuple(f"{genre}-{number:02}" for genre in self.genres for number in range(self.chance.shape[1]))

    def next_chances(self, taken: list[int], genre: int) -> np.ndarray:
        """Returns the probability of each item of a genre to be its next one, float64 [M], given all items taken."""
        size = self.chance.shape[1]
        own = [item % size for item in taken if item // size == genre]
        free = np.ones(size)
        free[own] = 0.0
        found = (self.chance[genre, own[-1]] if own else np.ones(size)) * free
        total = found.sum()
        return found / total if total else free

    def best_scores(self, taken: list[int]) -> np.ndarray:
        """Returns the probability of each item to be the next one, float64 [I], as far as a history tells it.

        One who has shown one genre alone may have any other as the second.
        """
        genres = list(dict.fromkeys(item // self.chance.shape[1] for item in taken))
        others = [genre for genre in range(len(self.genres)) if genre not in genres]
        weights = np.zeros(len(self.genres))
        weights[genres] = 0.5 if len(genres) == 2 else 0.0
        if len(genres) == 1:
            # The coin has shown one thread each time; both kinds of history begin alike.
            weights[genres[0]], weights[others] = 0.5, 0.5 / len(others)
        return np.concatenate([weights[genre] * self.next_chances(taken, genre) for genre in range(len(self.genres))])


def make_shop(genres: int = len(_GENRES), items: int = 40, seed: int = 0) -> Shop:
    """Draws a shop of up to six genres of some items each."""
    rng = np.random.Generator(np.random.PCG64(seed))
    chance = np.full((genres, items, items), (1 - sum(_SUCCESSORS)) / items)
    for genre in range(genres):
        for item in range(items):
            followers = np.argsort(rng.random(items - 1), kind="stable")[: len(_SUCCESSORS)]
            followers += followers >= item  # never the item itself
            chance[genre, item, followers] += _SUCCESSORS
    return Shop(_GENRES[:genres], chance)


def draw_histories(shop: Shop, users: int, seed: int = 0, lengths: tuple[int, int] = (8, 24)) -> list[list[int]]:
    """Draws the items of users, in order; each history has from the first to the second number of `lengths`."""
    rng = np.random.Generator(np.random.PCG64((seed, 1)))
    size, found = shop.chance.shape[1], []
    for _ in range(users):
        pair = np.argsort(rng.random(len(shop.genres)), kind="stable")[:2]
        taken: list[int] = []
        for _ in range(int(rng.integers(lengths[0], lengths[1] + 1))):
            genre = int(pair[int(rng.random() < 0.5)])
            chances = np.cumsum(shop.next_chances(taken, genre))
            taken.append(genre * size + int(np.searchsorted(chances, rng.random() * chances[-1], side="right")))
        found.append(taken)
    return found


def drawn_records(users: int = 8_000, seed: int = 0) -> Iterator[tuple[int, int, float]]:
    """Yields the interactions of the quickstart: the number of the user, that of the item, a step of time each."""
    for user, taken in enumerate(draw_histories(make_shop(seed=seed), users, seed)):
        yield from ((user, item, float(step)) for step, item in enumerate(taken))
