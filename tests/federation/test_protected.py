"""Servers that see sums alone, or noised ones: the same means as a server that sees all, by other ways."""

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.privacy import GaussianMechanism
from jaxfm.federation.protected import ProtectedServer, fixed_point
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.update import Update

SHAPES = {"encoder/kernel": (40, 5), "head/bias": (3,)}


def _values(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {path: (scale * generator.normal(size=shape)).astype(np.float32) for path, shape in SHAPES.items()}


def _updates(clients: tuple[int, ...]) -> list[Update]:
    return [Update(client, _values(client, 0.1), 10 + 7 * client, 2, {}) for client in clients]


@pytest.mark.parametrize(("bits", "bound"), [(32, 3e-6), (64, 2e-7)])
@pytest.mark.parametrize("arrived", [(0, 1, 2, 3, 4), (0, 2, 3, 4)])
def test_the_masked_mean_is_that_of_a_server_that_sees_all(bits: int, bound: float, arrived: tuple[int, ...]) -> None:
    rules, start = ServerRules(5, 5, seed=1), _values(99)
    plain, masked = Server(start, rules), ProtectedServer(start, rules, form=fixed_point(bits, 5), examples=120)
    assert not masked.moves_alone and masked.select(3) == plain.select(3)
    for server in (plain, masked):
        server.receive(_updates(arrived), range(5))
    for path in SHAPES:
        np.testing.assert_allclose(masked.values[path], plain.values[path], atol=bound)
    gone = [client for client in range(5) if client not in arrived]
    assert masked.facts() == {"bytes_up": len(arrived) * 204 * bits // 8, "unmasked_without": gone}
    assert masked.round == 1 and "3 of 5 clients are left, and 4 must be" in masked.problem(
        _updates((0, 1, 2)), range(5)
    )
    assert masked.problem(_updates(arrived), range(5)) == ""


def test_a_private_mean_weighs_all_alike_and_moves_without_clients() -> None:
    rules, start = ServerRules(5, 5, seed=1), _values(99)
    quiet = GaussianMechanism(clip_norm=0.3, noise=1e-9, rate=1.0, clients=5, seed=1)
    server = ProtectedServer(start, rules, mechanism=quiet)
    updates = _updates((0, 1, 4))
    server.receive(updates)
    for path in SHAPES:
        total = 0
        for update in updates:
            norm = np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in update.difference.values()))
            total += update.difference[path] * min(1.0, 0.3 / norm)
        np.testing.assert_allclose(server.values[path], start[path] + total / 5, atol=1e-6)
    loud = ProtectedServer(start, rules, mechanism=GaussianMechanism(1.0, 2.0, 0.5, 5, 1))
    assert loud.moves_alone and loud.problem([], []) == ""
    loud.receive([])
    assert np.std(loud.values["encoder/kernel"] - start["encoder/kernel"]) == pytest.approx(2.0 / 2.5, rel=0.2)
    assert loud.select(0) == sorted(loud.select(0)) and {len(loud.select(round)) for round in range(50)} > {1, 2, 3}


def test_masked_and_private_is_private_and_masking_changes_the_rounding_alone() -> None:
    rules, start = ServerRules(5, 5, seed=1), _values(99)
    mechanism = GaussianMechanism(clip_norm=0.3, noise=1.0, rate=1.0, clients=5, seed=1)
    seen, masked = (
        ProtectedServer(start, rules, mechanism=mechanism, form=form) for form in (None, fixed_point(64, 5))
    )
    for server in (seen, masked):
        server.receive(_updates((0, 1, 2, 3)), range(5))
    for path in SHAPES:
        np.testing.assert_allclose(masked.values[path], seen.values[path], atol=1e-6)


def test_rounding_is_counted_with_the_clipped_norm() -> None:
    tight = GaussianMechanism(clip_norm=1e-5, noise=1.0, rate=1.0, clients=3, seed=1)
    server = ProtectedServer(_values(99), ServerRules(3, 3), mechanism=tight, form=fixed_point(32, 3))
    with pytest.raises(UserError, match="rounds an update of 203 numbers by up to 6.8e-06, too much beside"):
        server.receive(_updates((0, 1, 2)), range(3))
    close = GaussianMechanism(clip_norm=1e-3, noise=1.0, rate=1.0, clients=3, seed=1)
    server = ProtectedServer(_values(99), ServerRules(3, 3), mechanism=close, form=fixed_point(32, 3))
    for update in _updates((0, 1, 2)):
        decoded = fixed_point(32, 3).decode(fixed_point(32, 3).encode(server._prepared(update)))
        norm = np.sqrt(sum((each**2).sum() for each in decoded.values()))
        assert 0.98e-3 < norm <= 1e-3


def test_a_modulus_that_there_is_none_of() -> None:
    with pytest.raises(UserError, match="modulo 2.16: must be 2.32 or 2.64"):
        fixed_point(16, 3)
