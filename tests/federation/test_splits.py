"""Examples dealt out: each in one place, shares that follow Dirichlet's law, and nothing that depends on others."""

import numpy as np
import pytest

from jaxfm.core.labels import LabelledRecord
from jaxfm.errors import UserError
from jaxfm.federation.splits import Split, dirichlet, held_out, iid, main_classes, parse_split


def test_parts_of_a_split_by_chance_are_equal_and_whole() -> None:
    parts = iid(103, 10, seed=3)
    assert sorted(map(len, parts)) == [10] * 7 + [11] * 3
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))
    assert not np.array_equal(parts[0], iid(103, 10, seed=4)[0])


def test_parts_by_class_are_whole_and_skewed_as_alpha_says() -> None:
    classes = list("ab" * 500)
    for alpha in (0.1, 100.0):
        parts = dirichlet(classes, 5, alpha, seed=0, least=2)
        assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
        shares = [np.mean([classes[index] == "a" for index in part]) for part in parts]
        assert (max(shares) > 0.95) == (alpha == 0.1), shares
    assert max(map(len, parts)) < 300  # alpha = 100: nearly alike


def test_the_shares_of_a_class_follow_the_law_of_dirichlet() -> None:
    # Of the symmetric distribution over C clients: mean 1 / C, variance (C - 1) / (C^2 (C alpha + 1)).
    clients, alpha, records = 4, 0.5, 2000
    found = np.asarray(
        [
            [len(part) / records for part in dirichlet(["a"] * records, clients, alpha, seed, least=0)]
            for seed in range(600)
        ]
    )
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    np.testing.assert_allclose(found.mean(axis=0), 1 / clients, atol=3 * np.sqrt(variance / 600))
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.12)


def test_what_a_client_draws_does_not_depend_on_how_many_others_there_are() -> None:
    # The shares of clients 0 and 1 stand in the same ratio, whoever else there is.
    sizes = [[len(part) for part in dirichlet(["a"] * 20_000, clients, 2.0, 0, least=0)] for clients in (2, 5)]
    few, many = sizes
    assert few[0] / few[1] == pytest.approx(many[0] / many[1], rel=0.01)


def test_a_draw_that_leaves_a_client_too_little_is_made_again_or_refused() -> None:
    parts = dirichlet(list("ab" * 200), 5, 0.1, seed=1, least=10)
    assert min(map(len, parts)) >= 10
    assert min(map(len, dirichlet(list("ab" * 200), 5, 0.1, seed=1, least=0))) < 10  # the draw was made again
    with pytest.raises(UserError, match=r"--split=dirichlet=0.1: in none of .* all 5 clients have 79 of the 400"):
        dirichlet(list("ab" * 200), 5, 0.1, seed=1, least=79)


def test_a_client_holds_out_a_share_of_its_own() -> None:
    train, held = held_out(50, 0.2, seed=7)
    assert len(held) == 10 and sorted([*train, *held]) == list(range(50))
    assert not np.array_equal(held, held_out(50, 0.2, seed=8)[1])
    assert [len(part) for part in held_out(2, 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in held_out(3, 0.99, seed=0)] == [1, 2]


def test_the_class_of_a_record() -> None:
    tags = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")

    def sentence(*numbers: int) -> LabelledRecord:
        return LabelledRecord({"tokens": ["w"] * len(numbers)}, "f:1", np.asarray(numbers))

    sentences = [sentence(1, 2, 2, 0), sentence(3, 1, 4), sentence(0), sentence(1, 1, 3)]
    # LOC and PER once each in the second: PER is rarer over all. Continued tags do not count.
    assert main_classes(sentences, tags) == ["LOC", "PER", "", "LOC"]
    single = [LabelledRecord({"text": "t"}, "f:1", np.asarray([number])) for number in (1, 0)]
    assert main_classes(single, ("x", "y")) == ["y", "x"]
    several = [LabelledRecord({"text": "t"}, "f:1", np.asarray([row])) for row in ([1, 1], [1, 0], [0, 0])]
    several = [LabelledRecord(each.row, each.origin, each.classes.astype(bool)) for each in several]
    assert main_classes(several, ("x", "y")) == ["y", "x", ""]


def test_the_option() -> None:
    assert parse_split("iid") == Split("iid") and parse_split("dirichlet=0.3") == Split("dirichlet", 0.3)
    for text, message in (
        ("dirichlet", "needs a number above 0"),
        ("dirichlet=x", "needs a number above 0"),
        ("dirichlet=-1", "needs a number above 0"),
        ("files=3", "files has no value"),
        ("dirichle=1", "Did you mean 'dirichlet'"),
    ):
        with pytest.raises(UserError, match=message):
            parse_split(text)
