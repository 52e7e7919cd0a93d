"""The state of all rounds so far on the disk: a server that is killed goes on from its last whole round."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxfm.errors import UserError
from jaxfm.federation.client import Client
from jaxfm.federation.server import Server
from jaxfm.federation.update import Values
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.paths import flat, nested

logger = logging.getLogger(__name__)

_KEPT = 2  # rounds; one that is damaged does not cost the whole


class RoundStore:
    """Checkpoints of rounds: what is trained of the model, what server and clients remember, and the history.

    Arrays and JSON alone, hashed and renamed into place as the checkpoints of any run are.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        """Opens, and if need be makes, the directory."""
        self._checkpoints = Checkpoints(directory, keep_last=_KEPT)

    def save(
        self,
        server: Server,
        clients: Sequence[Client],
        history: Sequence[Mapping[str, Any]],
        best: int,
    ) -> None:
        """Saves the state after the server's last round and waits for the disk; that of round `best` is kept."""
        state = server.state()
        rest: dict[str, Any] = {"round": jnp.asarray(server.round, jnp.int32)}
        if "control" in state:
            rest["control"] = nested(_arrays(state["control"]))
        if "optimizer" in state:
            rest["optimizer"] = _arrays(state["optimizer"])
        controls = {str(each.number): nested(_arrays(each.control)) for each in clients if each.control is not None}
        if controls:
            rest["client_controls"] = controls
        meta = {"history": list(history), "best": {"step": best}}
        params = nested(_arrays(state["values"]))
        self._checkpoints.save_whole(server.round, params, rest, meta, keep=(best,))
        self._checkpoints.wait()

    def restore(self, server: Server, clients: Sequence[Client]) -> list[dict[str, Any]]:
        """Puts server and clients where they were after the newest round; returns the history, empty without one.

        A round that is not whole is set aside, and the one before is taken. Raises UserError where none is whole.
        """
        found = self._newest_whole()
        if found is None:
            return []
        params, rest, meta = found
        state = {"values": flat(params)}
        if "control" in rest:
            state["control"] = flat(rest["control"])
        if "optimizer" in rest:
            state["optimizer"] = rest["optimizer"]
        server.restore(state, int(rest["round"]))
        for client in clients:
            own = rest.get("client_controls", {}).get(str(client.number))
            client.control = None if own is None else {path: np.asarray(value) for path, value in flat(own).items()}
        return list(meta["history"])

    def values(self, round: int) -> Values:
        """Returns path -> f32 of a round that is kept; UserError where it is not whole."""
        params, _, _ = self._checkpoints.read_whole(round)
        return {path: np.asarray(value) for path, value in flat(params).items()}

    def _newest_whole(self) -> tuple[Any, Any, dict[str, Any]] | None:
        rounds, broken = self._checkpoints.steps()[::-1], {}
        for round in rounds:
            try:
                found = self._checkpoints.read_whole(round)
            except UserError as error:
                broken[round] = error
                continue
            for each, why in broken.items():
                where = self._checkpoints.set_aside(each)
                logger.warning("%s It is set aside, in %s; round %d is taken.", why, where, round)
            return found
        if rounds:
            raise UserError(" ".join(str(error) for error in broken.values()))
        return None

    def close(self) -> None:
        """Waits for saves and frees the threads."""
        self._checkpoints.close()


def _arrays(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {path: jnp.asarray(value) for path, value in values.items()}
