"""Which trials go on, and how far: pure functions of the trials so far."""

import collections
import math

import pytest

from jaxfm.errors import UserError
from jaxfm.tuning.pruning import MEDIAN_FROM, Job, Pruner, make_pruner
from jaxfm.tuning.trials import Trial, best, pareto_front

HALVING = Pruner("halving", (0.1, 0.3), 3)


def played(pruner: Pruner, total: int, failing: tuple[int, ...] = ()) -> tuple[list[Job], dict[int, Trial]]:
    """The jobs in their order, where the score of a trial is its number; the first of those that can be done is."""
    trials: dict[int, Trial] = {}
    done = []
    while jobs := pruner.jobs(trials, total):
        job = jobs[0]
        done.append(job)
        before = trials.get(job.number, Trial(job.number))
        score = float(job.number)
        if job.number in failing:
            trials[job.number] = Trial(job.number, "failed")
        elif job.level < len(pruner.rungs_of(job.number)):
            trials[job.number] = Trial(job.number, "waiting", rung_scores=(*before.rung_scores, score))
        else:
            trials[job.number] = Trial(job.number, "finished", rung_scores=before.rung_scores, values=(score,))
    return done, trials


def test_without_rungs_trials_go_to_their_end_one_after_the_other() -> None:
    done, _ = played(Pruner("none"), 4)
    assert done == [Job(number, 0) for number in range(4)]


def test_halving_promotes_one_in_three_at_each_rung() -> None:
    done, trials = played(HALVING, 9)
    assert done == [*(Job(number, 0) for number in range(9)), Job(6, 1), Job(7, 1), Job(8, 1), Job(8, 2)]
    assert [each.number for each in trials.values() if each.state == "finished"] == [8]
    done, _ = played(Pruner("halving", (0.1, 0.3), 3, more_is_better=False), 9)
    assert done[9:] == [Job(0, 1), Job(1, 1), Job(2, 1), Job(0, 2)]


def test_failed_trials_leave_their_place_to_the_next_best() -> None:
    done, _ = played(HALVING, 9, failing=(8, 6))
    assert done[9:] == [Job(4, 1), Job(5, 1), Job(7, 1), Job(7, 2)]
    _, trials = played(HALVING, 3, failing=(0, 1, 2))
    assert {each.state for each in trials.values()} == {"failed"}


def test_a_larger_total_promotes_some_that_were_left_standing() -> None:
    _, trials = played(HALVING, 3)
    assert [job.number for job in HALVING.jobs(trials, 6)] == [3, 4, 5]


def test_what_has_begun_is_gone_on_with_first() -> None:
    trials = {0: Trial(0, "waiting", rung_scores=(0.5,)), 1: Trial(1, "waiting"), 2: Trial(2, "running")}
    assert HALVING.jobs(trials, 4) == [Job(2, 0), Job(1, 0), Job(3, 0)]


def test_a_score_that_is_not_defined_is_the_worst() -> None:
    scores = (math.nan, 0.1, 0.2)
    trials = {number: Trial(number, rung_scores=(score,)) for number, score in enumerate(scores)}
    assert HALVING.jobs(trials, 3) == [Job(2, 1)]


def test_brackets_share_the_budget_evenly() -> None:
    pruner = Pruner("hyperband", (1 / 9, 1 / 3), 3)
    counts = collections.Counter(pruner.bracket_of(number) for number in range(55))
    assert counts == {0: 30, 1: 15, 2: 10}  # in proportion to 9 / 3, 3 / 2 and 1
    assert [len(pruner.rungs_of(number)) for number in range(55)] == [2 - pruner.bracket_of(n) for n in range(55)]
    _, trials = played(pruner, 11)
    finished = [each.number for each in trials.values() if each.state == "finished"]
    assert {pruner.bracket_of(number) for number in finished} == {0, 1, 2}


def curve(number: int, *scores: float) -> Trial:
    return Trial(number, "finished", curve=tuple((10 * (n + 1), each) for n, each in enumerate(scores)), total_steps=40)


def test_the_median_rule() -> None:
    pruner = Pruner("median")
    others = [curve(number, 0.1 * number, 0.1 * number + 0.2) for number in range(5)]  # median 0.2, then 0.4
    assert pruner.stops(curve(9, 0.15), others) and not pruner.stops(curve(9, 0.2), others)
    assert pruner.stops(curve(9, 0.3, 0.35), others) and not pruner.stops(curve(9, 0.5, 0.1), others)  # by its best
    assert not pruner.stops(curve(9, 0.0), others[: MEDIAN_FROM - 1])
    assert not Pruner("none").stops(curve(9, 0.0), others)
    lower = Pruner("median", more_is_better=False)
    assert lower.stops(curve(9, 0.25), others) and not lower.stops(curve(9, 0.15), others)
    # By shares of the updates: half as many updates in all are scored after half as many.
    half = Trial(9, curve=((5, 0.15),), total_steps=20)
    assert pruner.stops(half, others)


def test_rungs_that_cannot_be_are_refused() -> None:
    assert make_pruner("halving", (), 3, True).rungs == (1 / 9, 1 / 3)
    for rungs in ((0.5, 0.2), (0.0, 0.5), (1.0,), (0.2, 0.2)):
        with pytest.raises(UserError, match="--rungs=.*must be ascending shares of a run"):
            make_pruner("halving", rungs, 3, True)
    with pytest.raises(UserError, match="--rungs: --pruner=median has none"):
        make_pruner("median", (0.5,), 3, True)
    with pytest.raises(UserError, match="--reduction=1: must be at least 2"):
        make_pruner("hyperband", (), 1, True)


def test_the_best_and_the_pareto_front() -> None:
    values = [(0.5, 3.0), (0.7, 5.0), (0.4, 4.0), (0.7, 6.0), (0.2, 1.0)]
    trials = [Trial(number, "finished", values=each) for number, each in enumerate(values)] + [Trial(5, "failed")]
    first = best(trials, True)
    assert first is not None and first.number == 1
    assert [each.number for each in pareto_front(trials, (True, False))] == [0, 1, 4]
    assert best([Trial(0, "failed")], True) is None
