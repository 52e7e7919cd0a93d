"""Devices that compute or remember wrongly, found by comparing what must be equal: copies, and a step done twice.

A wrong number that is finite goes through training unseen. Two things tell: arrays that several devices hold whole have
the same bits on each of them, and the same program on the same input gives the same bits again.
"""

# X data, F fsdp, M tensor, S sequence (the axes of a mesh), L arrays

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxfm.errors import UserError
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target
from jaxfm.training.hashes import array_hash
from jaxfm.training.paths import path_name

_LISTED = 5  # arrays and devices that a message names
_DETERMINISTIC = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")
_WHAT_TO_DO = (
    "A device, its memory or a link computes wrongly. Nothing of this state is saved: the same command goes on from "
    "the newest checkpoint. Test the hardware, or leave it out, before that (docs/reliability.md)."
)


class CorruptionError(UserError):
    """Numbers that must be equal and are not: the run ends with exit code 2, so that nobody restarts it unseen."""


class Verifier:
    """Compares the bits of one tree of arrays, (state, sums), between devices and between two computations."""

    def __init__(self, abstract: Any, mesh: Mesh) -> None:
        """`abstract`: shapes and shardings of the tree."""
        leaves = jax.tree_util.tree_leaves_with_path(abstract)
        self._names = [
            path_name(path[1:]) if path[0].idx == 0 else f"metrics/{path_name(path[1:])}" for path, _ in leaves
        ]
        self._specs = [leaf.sharding.spec for _, leaf in leaves]
        self._mesh = mesh
        on_each = jax.shard_map(
            lambda arrays: jnp.stack([array_hash(leaf) for leaf in arrays]).reshape(1, 1, 1, 1, -1),
            mesh=mesh,
            in_specs=(self._specs,),
            out_specs=PartitionSpec(*meshes.AXES),
            check_vma=False,
        )
        # Whole on every device, so that every process comes to the same verdict.
        self._hash = jax.jit(on_each, out_shardings=meshes.replicated(mesh))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        self._copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)

    def hashes(self, tree: Any) -> jax.Array:
        """Starts to hash each device's own bits of each array; returns uint32 [X, F, M, S, L]."""
        return self._hash(jax.tree.leaves(tree))

    def check_copies(self, tree: Any, when: str) -> None:
        """Raises CorruptionError where copies of an array differ; `when` is said in it. Waits for the devices."""
        if self._mesh.size > 1:  # one device has no copies
            self._check_copies(np.asarray(jax.device_get(self.hashes(tree))), when)

    def step(self, program: Any, step: int, state: Any, sums: Any, batch: Any, constants: Any) -> tuple[Any, Any]:
        """Computes update number `step` twice and returns its state and sums; waits for the devices.

        While it does so a second copy of state and sums lies on the devices.

        Raises:
          CorruptionError: copies of an array differ before or after, or the two results do.
        """
        self.check_copies((state, sums), f"before update {step}")
        copies = self._copied((state, sums))
        with jax.transfer_guard("disallow"):
            first = self.hashes(program(*copies, batch, constants))
            result = program(state, sums, batch, constants)
            second = self.hashes(result)
        before, after = np.asarray(jax.device_get(first)), np.asarray(jax.device_get(second))
        self._check_copies(before, f"after update {step}")
        self._check_copies(after, f"after update {step}")
        differ = before != after
        if differ.any():
            arrays = [self._names[index] for index in np.flatnonzero(differ.any(axis=(0, 1, 2, 3)))]
            devices = [self._device(place) for place in np.argwhere(differ.any(axis=-1)).tolist()]
            raise CorruptionError(
                f"silent corruption: update {step}, computed twice from the same state and batch, gave two results: "
                f"{len(arrays)} of {len(self._names)} arrays differ ({_listed(arrays)}), on {_listed(devices)}. "
                f"{_WHAT_TO_DO} If it happens again at once, on any device, a computation of this step may not be "
                "deterministic there: config.train.verify_every_steps=0 turns the comparison off."
            )
        return result

    def _check_copies(self, hashes: np.ndarray, when: str) -> None:
        """Compares hashes [X, F, M, S, L] along the mesh axes over which each array is not cut."""
        wrong, odd = {}, {}
        for index, (name, spec) in enumerate(zip(self._names, self._specs, strict=True)):
            cut = {axis for entry in spec for axis in ((entry,) if isinstance(entry, str) else entry or ())}
            over = tuple(number for number, axis in enumerate(meshes.AXES) if axis not in cut)
            own = hashes[..., index]
            # The first copy of each part, as often as there are copies.
            first = own[tuple(slice(0, 1) if number in over else slice(None) for number in range(own.ndim))]
            if (own == first).all():
                continue
            for place, is_known in _odd_ones(own, over):
                wrong[name] = None
                odd.setdefault(self._device(place), set()).add(is_known)
        if not wrong:
            return
        sure = all(all(known) for known in odd.values())
        which = "which their other copies outvote" if sure else "and no majority tells which of them is right"
        raise CorruptionError(
            f"silent corruption: {when} the devices' copies of {len(wrong)} of {len(self._names)} arrays differ "
            f"({_listed(list(wrong))}), on {_listed(list(odd))}, {which}. {_WHAT_TO_DO}"
        )

    def _device(self, place: Sequence[int]) -> str:
        device = self._mesh.devices[tuple(place)]
        process = f" of process {device.process_index}" if jax.process_count() > 1 else ""
        return f"{device.platform}:{device.id}{process}"


def check_deterministic(every: int) -> None:
    """Raises UserError where two computations of a step may differ though no device is broken: on GPUs by default."""
    flags = os.environ.get("XLA_FLAGS", "")
    if not every or target.platform() not in ("gpu", "cuda", "rocm"):
        return
    if not any(flag in flags and f"{flag}=false" not in flags for flag in _DETERMINISTIC):
        raise UserError(
            f"config.train.verify_every_steps: {every}, but on GPUs sums may be added in another order each time. Set "
            f"the environment variable XLA_FLAGS={_DETERMINISTIC[0]}=true (slower), or verify_every_steps=0."
        )


def _odd_ones(hashes_XFMS: np.ndarray, over: tuple[int, ...]) -> list[tuple[tuple[int, ...], bool]]:
    """Returns the places of copies that are not those of the majority, or of all copies where there is none.

    The bool says whether there is a majority. `over` are the axes along which the copies of one part lie.
    """
    found = []
    kept = [axis for axis in range(hashes_XFMS.ndim) if axis not in over]
    for part in np.ndindex(*(hashes_XFMS.shape[axis] for axis in kept)):
        at = {axis: number for axis, number in zip(kept, part, strict=True)}
        places = [
            place
            for place in np.ndindex(*hashes_XFMS.shape)
            if all(place[axis] == number for axis, number in at.items())
        ]
        values, counts = np.unique([hashes_XFMS[place] for place in places], return_counts=True)
        if len(values) == 1:
            continue
        is_known = counts.max() * 2 > len(places)
        right = values[counts.argmax()]
        found += [(place, is_known) for place in places if not is_known or hashes_XFMS[place] != right]
    return found


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
