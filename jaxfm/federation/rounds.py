"""Rounds: the server draws clients, these train, what they send is combined, and a quorum says whether it is taken.

Each round ends with a save. Everything that is drawn is a function of seed, round and client, so a simulation that is
killed in the middle of a round does that round again and comes to the same bits.
"""

# C clients of a round

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError
from jaxfm.federation import aggregation, fairness
from jaxfm.federation.client import Client
from jaxfm.federation.faults import Faults, Turn
from jaxfm.federation.local import LocalTraining
from jaxfm.federation.server import Server
from jaxfm.federation.stacked import StackedTraining
from jaxfm.federation.storage import RoundStore
from jaxfm.federation.update import Scores, Update, Values, size_of
from jaxfm.observe.progress import Progress

_QUORUM = 31  # stream of the draws of a quorum


@dataclasses.dataclass(frozen=True)
class Goal:
    """What rounds are judged by.

    Attributes:
      metric: its name.
      more_is_better: which way.
      score: (values) -> metrics of the server's own validation split; None where it has none.
      every: rounds between two evaluations; the last round always has one.
      best: whether the result is the best round's model, not the last one's.
    """

    metric: str
    more_is_better: bool
    score: Callable[[Values], Mapping[str, float]] | None
    every: int = 1
    best: bool = True

    def is_better(self, one: float, other: float, by: float = 0.0) -> bool:
        """Whether a score is better than another one by more than `by`; NaN never is."""
        return one > other + by if self.more_is_better else one < other - by


@dataclasses.dataclass(frozen=True)
class Quorum:
    """Who has a say in whether the model of a round is taken (as in Andreina et al. 2021, BaFFLe).

    Attributes:
      size: clients that are drawn; each scores the model before and after on what it holds out. 0: no vote.
      tolerance: how much worse a model may be for a client that does not vote against it.
      seed: of the draws.
    """

    size: int = 0
    tolerance: float = 0.0
    seed: int = 0

    def members(self, clients: int, round: int) -> list[int]:
        """Returns the clients of a round's quorum, ascending."""
        return sorted(shuffled(clients, self.seed, _QUORUM, round)[: self.size].tolist())


class Exchange(Protocol):
    """Reaches clients that are in other processes."""

    def train(self, going: Mapping[int, int], values: Values, round: int) -> tuple[list[Update], dict[int, str]]:
        """Returns the updates of the clients `going` (client -> steps), and client -> why one has not answered."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Rounds:
    """All that rounds need.

    Attributes:
      server: as it began.
      clients: all of them, in the order of their numbers.
      work: what they share.
      faults: that are simulated.
      quorum: who votes.
      goal: what is scored.
      store: where the state is saved.
      progress: where to show how far it is.
      at_once: clients that are trained in one program; 1: one after the other.
      exchange: reaches clients that are elsewhere; None: they are in this process.
    """

    server: Server
    clients: Sequence[Client]
    work: LocalTraining
    faults: Faults
    quorum: Quorum
    goal: Goal
    store: RoundStore
    progress: Progress
    at_once: int = 1
    exchange: Exchange | None = None

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """Goes on to round `rounds` and returns the history: of each round JSON values, from round 1.

        Raises UserError where no client ever answers.
        """
        history = self.store.restore(self.server, self.clients)
        if history:
            self.progress.say(f"going on after round {len(history)} of {rounds}")
        while len(history) < rounds:
            history.append(self._round(self.server.round, rounds))
            best = best_round(history, self.goal)
            self.store.save(self.server, self.clients, history, best)
            is_best = best == len(history) and history[-1]["accepted"]
            self.progress.say(describe(history[-1], rounds, self.goal.metric, is_best=is_best))
        if not any(each["answered"] for each in history):
            raise UserError("no client has answered in any round: there is no model. Look at --leave, --fail, --slow.")
        return history

    def result(self, history: Sequence[Mapping[str, Any]]) -> tuple[int, Values]:
        """Returns the round that the result is of, and its values."""
        kept = best_round(history, self.goal) if self.goal.best else len(history)
        return kept, self.server.values if kept == len(history) else self.store.values(kept)

    def _round(self, round: int, rounds: int) -> dict[str, Any]:
        server, before = self.server, self.server.values
        turns = self.faults.turns(round, server.select(round), {each.number: each.steps for each in self.clients})
        updates, refused = self._answers(turns, round)
        dropped = {turn.client: turn.why for turn in turns if not turn.steps} | refused
        sent = size_of(before) + (0 if server.control is None else size_of(server.control))
        record: dict[str, Any] = {
            "round": round + 1,
            "clients": [turn.client for turn in turns],
            "answered": [each.client for each in updates],
            "steps": {str(each.client): each.steps for each in updates},
            "slow": {str(turn.client): turn.why for turn in turns if turn.steps and turn.why},
            "dropped": {str(client): why for client, why in dropped.items()},
            "poisoned": [each.client for each in updates if each.client in self.faults.poison],
            "bytes_down": sent * sum(turn.receives for turn in turns),
            "bytes_up": sum(each.size for each in updates),
            "loss": _mean_loss(updates),
            "accepted": bool(updates),
        }
        problem = server.problem(updates, record["clients"])
        if problem or not (updates or server.moves_alone):
            server.skip()
            record |= {"accepted": False, **({"problem": problem} if problem else {})}
        else:
            record |= {"accepted": True, **self._move(updates, record["clients"], round)}
        for client in self.clients:
            client.settle(accepted=record["accepted"] and client.number in record["answered"])
        if (round + 1) % self.goal.every == 0 or round + 1 == rounds:
            record |= self._scores()
        return record

    def _answers(self, turns: Sequence[Turn], round: int) -> tuple[list[Update], dict[int, str]]:
        """Returns what is sent in a round, and client -> why its update cannot be used."""
        server = self.server
        going = [(self.clients[turn.client], turn.steps) for turn in turns if turn.steps]
        updates: list[Update] = []
        refused: dict[int, str] = {}
        with self.progress.task(f"round {round + 1}: clients", len(going)) as advance:
            if self.exchange is not None:
                steps = {client.number: count for client, count in going}
                updates, refused = self.exchange.train(steps, server.values, round)
            elif self.at_once > 1:
                for first in range(0, len(going), self.at_once):
                    part = going[first : first + self.at_once]
                    updates += self._stacked.train(part, server.values, round, server.control)
                    advance(len(part))
            else:
                for client, steps in going:
                    updates.append(client.train(server.values, round, steps=steps, control=server.control))
                    advance(1)
        usable = []
        for update in (self.faults.poisoned(each, round) for each in updates):
            if problem := aggregation.problem_of(update):
                refused[update.client] = problem
            else:
                usable.append(update)
        return usable, refused

    @functools.cached_property
    def _stacked(self) -> StackedTraining:
        return StackedTraining(self.work, self.at_once)

    def _move(self, updates: Sequence[Update], selected: Sequence[int], round: int) -> dict[str, Any]:
        """Moves the model, asks the quorum, and goes back where it refuses; returns facts of it."""
        server, before, state = self.server, self.server.values, self.server.state()
        server.receive(updates, selected)
        moved = math.sqrt(
            sum(float(np.sum(np.square(server.values[path] - before[path], dtype=np.float64))) for path in before)
        )
        if not self.quorum.size:
            return {"moved": moved, **server.facts()}
        votes: dict[str, str] = {}
        members = self.quorum.members(len(self.clients), round)
        with self.progress.task(f"round {round + 1}: quorum", len(members)) as advance:
            for number in members:
                votes[str(number)] = self._vote(self.clients[number], before, server.values)
                advance(1)
        against = sum(vote == "against" for vote in votes.values())
        cast = sum(vote != "no score" for vote in votes.values())
        accepted = 2 * against <= cast
        if not accepted:
            server.restore(state, round)
            server.skip()
        return {"moved": moved, "accepted": accepted, "votes": votes, **server.facts()}

    def _vote(self, client: Client, before: Values, after: Values) -> str:
        goal = self.goal
        old, new = (client.score(values).metrics.get(goal.metric, math.nan) for values in (before, after))
        if math.isnan(old) and math.isnan(new):
            return "no score"
        against = math.isnan(new) or goal.is_better(old, new, self.quorum.tolerance)
        return "against" if against else "for"

    def _scores(self) -> dict[str, Any]:
        goal, values = self.goal, self.server.values
        found = {} if goal.score is None else {"valid": dict(goal.score(values))}
        scores = score_clients(self.clients, values, self.progress)
        return found | {"held_out": fairness.summary(scores, goal.metric, more_is_better=goal.more_is_better)}


def score_clients(clients: Sequence[Client], values: Values, progress: Progress) -> list[Scores]:
    """Returns how a model does on what each client holds out."""
    found = []
    with progress.task("scoring clients", len(clients)) as advance:
        for client in clients:
            found.append(client.score(values))
            advance(1)
    return found


def best_round(history: Sequence[Mapping[str, Any]], goal: Goal) -> int:
    """Returns the round, from 1, with the best score, the first of equal ones; the last where none has a score."""
    best, found = len(history), math.nan
    for each in history:
        value = score_of(each, goal.metric)
        if not math.isnan(value) and (math.isnan(found) or goal.is_better(value, found)):
            best, found = each["round"], value
    return best


def score_of(record: Mapping[str, Any], metric: str) -> float:
    """Returns the score that a round is judged by: of the server's validation split, or the mean of the clients'.

    NaN where the round has none.
    """
    if "valid" in record:
        return _number(record["valid"].get(metric))
    return _number(record.get("held_out", {}).get("weighted_mean"))


def describe(record: Mapping[str, Any], rounds: int, metric: str, *, is_best: bool) -> str:
    """Returns a line for a person about a round."""
    parts = [f"round {record['round']} of {rounds}: {len(record['answered'])} of {len(record['clients'])} clients"]
    if record["loss"] is not None:
        parts.append(f"loss {record['loss']:.4f}")
    if "valid" in record:
        parts.append(f"{metric} on valid {_number(record['valid'].get(metric)):.4f}{' (best so far)' * is_best}")
    if (held := record.get("held_out")) and held["mean"] is not None:
        parts.append(f"mean of clients {held['mean']:.4f}, worst {held['worst']:.4f} (client {held['worst_client']})")
    parts.append(f"{record['bytes_up'] / 1e6:,.2f} MB up")
    lines = ["  ".join(parts)]
    for kind in ("dropped", "slow"):
        lines += [f"  client {client}: {why}" for client, why in record[kind].items()]
    if not record["accepted"]:
        against = [client for client, vote in record.get("votes", {}).items() if vote == "against"]
        why = f"clients {', '.join(against)} voted against it" if against else "no client has answered"
        why = record.get("problem", why)
        lines.append(f"  WARNING: round {record['round']} is refused and the model is that of before: {why}")
    return "\n".join(lines)


def _mean_loss(updates: Sequence[Update]) -> float | None:
    known = [
        (each.metrics["loss"], each.examples) for each in updates if math.isfinite(each.metrics.get("loss", math.nan))
    ]
    return sum(loss * count for loss, count in known) / sum(count for _, count in known) if known else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
