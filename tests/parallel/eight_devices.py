"""Trains tiny models over meshes of 8 devices, writes what came of it: python -m tests.parallel.eight_devices DIR.

A process of its own, since the number of devices is fixed once JAX has started.
"""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxfm.config import Config, MeshConfig
from jaxfm.core.task import Task
from jaxfm.observe import metrics as metrics_lib
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks import registry
from jaxfm.training.checkpoint import Checkpoints, array_hashes
from jaxfm.training.initial import resolve
from jaxfm.training.paths import path_name
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.state import TrainState
from tests import tiny

ENCODER = dataclasses.replace(
    tiny.ENCODER, num_heads=8, attention_dropout=0.1, dropout=0.1, initializer_range=0.3, vocab_size=89
)
STEPS, SAVED = 20, 10
# Named by the sizes of their axes; (of token classification, of masked LM).
MESHES = (
    ("1,1,1,1", "8,1,1,1", "1,8,1,1", "1,1,8,1", "1,1,1,8", "2,2,2,1", "2,1,2,2"),
    ("1,1,1,1", "8,1,1,1", "1,8,1,1", "2,1,2,2", "1,2,2,2"),
)
# Of vectors of texts: meshes and micro-batches.
WHOLE_BATCHES = (("1,1,1,1", 1), ("1,1,1,1", 2), ("8,1,1,1", 1), ("8,1,1,1", 2), ("2,2,2,1", 2), ("2,1,2,2", 1))
EVALUATED = ("1,1,1,1", "2,1,2,2")


class Run:
    """One training on one mesh."""

    def __init__(self, config: Config, task: Task, loaded: Mapping[str, np.ndarray], name: str):
        """Builds and compiles the step."""
        sizes = [int(size) for size in name.split(",")]
        self.mesh = meshes.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        self.task = task
        self.setup: Setup = set_up(config, task, loaded, self.mesh)
        self.step = self.setup.session.compiled(config.train.batch_size)

    def train(self, state: TrainState, first: int, last: int) -> tuple[TrainState, list[dict[str, float]]]:
        """Does the steps first .. last - 1; returns what each of them logs."""
        logged = []
        for step in range(first, last):
            batch = self.setup.session.shard(self.setup.batches.batch(step))
            state, sums = self.step(state, self.sums(), batch, ())
            logged.append(metrics_lib.means(sums))
        return state, logged

    def sums(self) -> metrics_lib.Sums:
        """Open sums of nothing."""
        return self.setup.session.empty_sums()

    def valid(self, state: TrainState) -> dict[str, float]:
        """Scores of the validation split."""
        outputs = self.setup.evaluate(state.params, self.task.datasets["valid"])
        return dict(self.task.scorer("valid").metrics(outputs))

    def device_bytes(self) -> dict[str, int]:
        """Bytes that one device holds, as the state is said to lie, and those the compiled step takes."""

        def held(tree: Any) -> int:
            return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

        abstract, memory = self.setup.session.abstract, self.step.memory_analysis()
        assert memory is not None
        arguments = memory.argument_size_in_bytes
        return {"params": held(abstract.params), "opt_state": held(abstract.opt_state), "arguments": arguments}

    def whole_arrays(self) -> tuple[int, list[str]]:
        """How many stacked parameters are cut, and which of them appear whole in the compiled step."""
        leaves = jax.tree_util.tree_leaves_with_path(self.setup.session.abstract.params["encoder"]["layers"])
        cut = {path_name(path): leaf for path, leaf in leaves if leaf.sharding.shard_shape(leaf.shape) != leaf.shape}
        text = self.step.as_text() or ""
        whole = [name for name, leaf in cut.items() if f"f32[{','.join(map(str, leaf.shape))}]" in text]
        return len(cut), whole


def main(directory: pathlib.Path) -> None:
    """Everything, as one JSON file."""
    assert jax.device_count() == 8
    common = {"train__batch_size": 16, "train__accumulate": 2, "train__steps": STEPS, "optim__learning_rate": 1e-3}
    tiny.write_weights(directory / "weights", ENCODER)
    tiny.write_masked_lm_weights(directory / "masked_lm", ENCODER)
    ner, restored = token_classification(tiny.config(directory, **common), directory, MESHES[0])
    config = tiny.masked_lm_config(directory, **common, task__evaluate=("whole_word",))
    task, loaded = registry.create(config, resolve(config.model))
    masked_lm = {name: pretraining(Run(config, task, loaded, name)) for name in MESHES[1]}
    result = {"ner": ner, "restored": restored, "masked_lm": masked_lm, "vectors": vectors(directory, common)}
    (directory / "result.json").write_text(json.dumps(result))


def token_classification(
    config: Config, directory: pathlib.Path, names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains on every mesh, saves half-way, and restores what one mesh saved on others."""
    task, loaded = registry.create(config, resolve(config.model))
    runs = {name: Run(config, task, loaded, name) for name in names}
    found, restored, saved = {}, {}, {}
    for name, run in runs.items():
        state, before = run.train(run.setup.initial_state(), 0, SAVED)
        saved[name] = Checkpoints(directory / name)
        saved[name].save(state, run.sums(), {})
        hashes = array_hashes(state)
        state, after = run.train(state, SAVED, STEPS)
        cut, whole = run.whole_arrays()
        found[name] = {"steps": before + after, "hashes": hashes, "bytes": run.device_bytes(), "cut": cut}
        found[name] |= {"whole": whole} | ({"valid": run.valid(state)} if name in EVALUATED else {})
    for number, source in enumerate(names):
        # The last one onto all others, each other one onto its neighbour.
        for name in names[:-1] if source == names[-1] else [names[number + 1]]:
            run = runs[name]
            sums = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), run.sums()
            )
            saved[source].wait()
            got = saved[source].restore_latest(run.setup.session.abstract, sums)
            assert got is not None
            hashes = array_hashes(got[0])
            restored[f"{source} {name}"] = {"hashes": hashes, "steps": run.train(got[0], SAVED, SAVED + 2)[1]}
        saved[source].close()
    return found, restored


def pretraining(run: Run) -> dict[str, Any]:
    """Trains a masked-LM on one mesh."""
    state, steps = run.train(run.setup.initial_state(), 0, STEPS)
    tables = state.params["encoder"]["embeddings"]["word"]["embedding"], state.params["decoder"]["bias"]
    padding = [float(np.abs(np.asarray(table)[ENCODER.vocab_size :]).max()) for table in tables]
    return {"steps": steps, "valid": run.valid(state), "padding": padding}


def vectors(directory: pathlib.Path, common: Mapping[str, Any]) -> dict[str, Any]:
    """Trains vectors of texts on meshes, each batch at once and in micro-batches; dropout is on."""
    found = {}
    for name, accumulate in WHOLE_BATCHES:
        changes = {**common, "train__accumulate": accumulate}
        config = tiny.embedding_config(directory, **changes)
        task, loaded = registry.create(config, resolve(config.model))
        run = Run(config, task, loaded, name)
        found[f"{name} {accumulate}"] = run.train(run.setup.initial_state(), 0, STEPS)[1]
    return found


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
