"""Faults of numbers made on purpose, in runs of a small classifier on 4 devices of the CPU, and what becomes of each.

  python -m profiles.faults.numbers --output=profiles/results/faults_numbers.json

Each fault strikes once, in or before update --at of --steps. A run that it ends is given the same command again,
without the fault, as after a restart on sound hardware. Reported are whether the fault was caught, at which step, what
was said, whether the final parameters are finite, and whether they are, bit for bit, those of an untouched run.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

if "jax" not in sys.modules:  # before it is imported: several devices, so that there are copies to compare
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxfm import files
from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.objective import Loss
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_plain
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks.classification.objective import ClassifierObjective
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training.paths import path_name
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import Session
from profiles import command_line, quality

PARAMETER = "params/head/kernel"  # what is struck
VERIFY, WINDOW, FACTOR = 4, 8, 8.0
OTHERS = ("the", "film", "was", "a", "and", "story", "rather", "today")
WORDS = (("good", "fine", "great", "lovely", "bright"), ("bad", "poor", "awful", "dull", "grim"))


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault and the guard that is to catch it.

    Attributes:
      name: for the table.
      guard: for the table.
      strike: makes the context in which a run is struck at that update.
      keys: of the config, that turn guards on.
      ends: whether the run is to end because of it, or go on without the update.
      verified: the update that is struck is the next one that is computed twice.
    """

    name: str
    guard: str
    strike: Callable[[int, int], contextlib.AbstractContextManager[Any]]
    keys: dict[str, Any] = dataclasses.field(default_factory=dict)
    ends: bool = False
    verified: bool = False


def data() -> dict[str, list[dict[str, str]]]:
    """Returns sentences of two classes, each with a word of its class among words of none."""
    draw = np.random.default_rng(0)

    def some(count: int) -> list[dict[str, str]]:
        found = []
        for index in range(count):
            words = [*draw.choice(OTHERS, 6), draw.choice(WORDS[index % 2])]
            found.append({"text": " ".join(draw.permutation(words)), "label": ("pos", "neg")[index % 2]})
        return found

    return {"train": some(256), "valid": some(32)}


def write_tokenizer(folder: pathlib.Path) -> None:
    """Writes the tokenizer of these words."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *OTHERS, *WORDS[0], *WORDS[1]]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')


def run_config(steps: int, tokenizer: pathlib.Path, **keys: Any) -> Config:
    """Returns the config of a run of two layers; keys as `train__steps=4`."""
    values = default_config("classification")
    values.model.preset, values.model.tokenizer = "bert_tiny", f"dir:{tokenizer}"
    values.model.scan_layers = True
    values.data.row_length = 32
    values.train.batch_size, values.train.steps, values.train.min_steps = 8, steps, 0
    values.optim.learning_rate = 1e-3
    values.eval.metric, values.eval.every_steps, values.eval.select = "accuracy", 5, "last"
    values.checkpoint.keep_optimizer = True
    values.log.every_steps, values.log.tensorboard = 1, False
    values.train.stop_after_skips = 3
    for key, value in keys.items():
        group, name = key.split("__")
        values[group][name] = value
    return from_config_dict(values)


# How a run is struck.


@contextlib.contextmanager
def changed_loss(change: Callable[[Any, Any, Loss, jax.Array], Loss], at: int, steps: int) -> Iterator[None]:
    """Has `change(model, batch, loss, is it the struck update)` be the loss."""
    plain = ClassifierObjective.loss

    def loss(self: Any, model: Any, batch: Any, context: Any) -> Loss:
        struck = jnp.abs(context.progress * steps - (at - 1)) < 0.5
        return change(model, batch, plain(self, model, batch, context), struck)

    with mock.patch.object(ClassifierObjective, "loss", loss):
        yield


def nan_in_a_batch(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A row whose loss is not a number, as of a label or a vector that is none."""
    return changed_loss(
        lambda model, batch, loss, struck: loss._replace(total=loss.total * jnp.where(struck, jnp.nan, 1.0)), at, steps
    )


def heavy_batch(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A batch whose loss, and so its gradient, is ten thousand times as large: finite."""
    return changed_loss(
        lambda model, batch, loss, struck: loss._replace(total=loss.total * jnp.where(struck, 1e4, 1.0)), at, steps
    )


@jax.custom_vjp
def _nothing(values: jax.Array, struck: jax.Array) -> jax.Array:
    """Returns 0, with a gradient that is NaN where `struck`."""
    return jnp.sum(values) * 0.0 * struck


_nothing.defvjp(
    lambda values, struck: (jnp.float32(0.0), (values, struck)),
    lambda kept, gradient: (jnp.full_like(kept[0], 1.0) * jnp.where(kept[1], jnp.nan, 0.0), jnp.zeros_like(gradient)),
)


def nan_in_one_gradient(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A finite loss with a gradient that is not finite, of one array, as of a function at its edge."""

    def change(model: Any, batch: Any, loss: Loss, struck: jax.Array) -> Loss:
        return loss._replace(total=loss.total + _nothing(model.head.kernel[...], struck.astype(jnp.float32)))

    return changed_loss(change, at, steps)


class _Struck:
    """A compiled step whose arguments, or results, are changed at one update."""

    def __init__(self, program: Any, before: Callable[[Any], Any], after: Callable[[Any], Any], at: int, times: int):
        self._program, self._before, self._after, self._at, self._times = program, before, after, at, times

    def __call__(self, state: Any, sums: Any, *rest: Any) -> Any:
        with jax.transfer_guard("allow"):
            is_hit = int(state.step) + 1 == self._at and self._times > 0
            if is_hit:
                self._times -= 1
                state = self._before(state)
            state, sums = self._program(state, sums, *rest)
            return (self._after(state) if is_hit else state), sums

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


@contextlib.contextmanager
def changed_state(
    at: int, before: Callable[[Any], Any] = lambda state: state, after: Callable[[Any], Any] = lambda state: state
) -> Iterator[None]:
    """Has the state be changed before, or after, the first computation of update `at`."""
    plain = Session.compiled
    known: dict[int, _Struck] = {}

    def compiled(self: Session, size: int, constants: Any = ()) -> Any:
        if size not in known:
            known[size] = _Struck(plain(self, size, constants), before, after, at, times=1)
        return known[size]

    with mock.patch.object(Session, "compiled", compiled):
        yield


def on_one_device(state: Any, change: Callable[[np.ndarray], None], device: int = 2) -> Any:
    """Returns the state with the copy of PARAMETER that one device holds changed in place."""

    def struck(path: Any, leaf: jax.Array) -> jax.Array:
        if path_name(path) != PARAMETER:
            return leaf
        parts = [np.array(shard.data) for shard in leaf.addressable_shards]
        change(parts[device])
        placed = [
            jax.device_put(part, shard.device) for part, shard in zip(parts, leaf.addressable_shards, strict=True)
        ]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, placed)

    return jax.tree_util.tree_map_with_path(struck, state)


def _flip(values: np.ndarray) -> None:
    values.reshape(-1).view(np.uint32)[0] ^= np.uint32(1 << 20)


def _nan(values: np.ndarray) -> None:
    values.reshape(-1)[0] = np.nan


def flipped_bit(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """One bit of one parameter's copy on one device, as by a particle."""
    del steps
    return changed_state(at, before=lambda state: on_one_device(state, _flip))


def nan_in_one_copy(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A NaN in one parameter's copy on one device."""
    del steps
    return changed_state(at, before=lambda state: on_one_device(state, _nan))


def wrong_everywhere(at: int, steps: int) -> contextlib.AbstractContextManager[Any]:
    """One bit of an update's result, the same on every device, as of a wrong product that all were sent."""
    del steps

    def after(state: Any) -> Any:
        for device in range(jax.device_count()):
            state = on_one_device(state, _flip, device)
        return state

    return changed_state(at, after=after)


VERIFIED = {"train__verify_every_steps": VERIFY}
FAULTS = (
    Fault("NaN in a batch's loss", "always on", nan_in_a_batch),
    Fault("NaN in one array's gradient", "always on", nan_in_one_gradient),
    Fault("NaN in one device's copy", "always on", nan_in_one_copy, ends=True),
    Fault("NaN in one device's copy", "verified", nan_in_one_copy, VERIFIED, ends=True),
    Fault("bit flipped in one device's copy", "none", flipped_bit),
    Fault("bit flipped in one device's copy", "verified", flipped_bit, VERIFIED, ends=True),
    Fault("bit of a result wrong on all devices", "verified, another update", wrong_everywhere, VERIFIED),
    Fault(
        "bit of a result wrong on all devices", "verified, this update", wrong_everywhere, VERIFIED, True, verified=True
    ),
    Fault("gradient 10,000 times as large", "none", heavy_batch),
    Fault(
        "gradient 10,000 times as large",
        "spike guard",
        heavy_batch,
        {"optim__spike_factor": FACTOR, "optim__spike_window": WINDOW},
    ),
)


# What becomes of a run.


def parameters(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns path -> array of a finished run."""
    return open_run(workdir).restore(make_mesh(MeshConfig()), Build()).to_host()


def tried(
    fault: Fault, config: Config, at: int, workdir: pathlib.Path, untouched: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Runs a fault; returns its record."""
    steps, said = config.train.steps, ""
    at = -(-at // VERIFY) * VERIFY if fault.verified else at
    with fault.strike(at, steps), contextlib.redirect_stdout(io.StringIO()):
        try:
            train(config, workdir, data=data())
        except UserError as error:
            said = str(error)
    struck = [
        int(line["step"])
        for line in read_metrics(workdir / "metrics.jsonl")
        if line["split"] == "train" and line.get("skipped", 0.0) + line.get("spikes", 0.0) > 0
    ]
    ended, reached = bool(said), [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    if ended:
        with contextlib.redirect_stdout(io.StringIO()):
            train(config, workdir, data=data())  # the same command, on sound hardware
    elif struck:
        said = f"update {struck[0]} skipped and counted"
    final = parameters(workdir)
    return {
        "fault": fault.name,
        "guard": fault.guard,
        "struck": at,
        "caught": bool(said),
        "ended": ended,
        "as_expected": ended == fault.ends,
        "skipped": struck,
        "checkpoint_before": max(reached, default=0) if ended else None,
        "message": said.replace(str(workdir.parent), "."),
        "finite": all(bool(np.isfinite(values).all()) for values in final.values()),
        "same_as_untouched": all(np.array_equal(values, untouched[name]) for name, values in final.items()),
    }


def loaded_weights(value: float, trained: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Exports a run, writes one such number into its weights and starts a run from them; returns the record."""
    with contextlib.redirect_stdout(io.StringIO()):
        export(trained, folder / "weights")
    path = folder / "weights" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name] = np.array(tensors[name])
    tensors[name][3, 5] = value
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    values = run_config(4, folder / "weights", model__init=f"dir:{folder / 'weights'}", model__preset="")
    said = ""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            train(values, folder / "run", data=data())
        except UserError as error:
            said = str(error)
    return {
        "fault": f"{value} in loaded weights",
        "guard": "always on",
        "struck": 0,
        "caught": bool(said),
        "ended": bool(said),
        "as_expected": bool(said) and not (folder / "run").exists(),
        "skipped": [],
        "checkpoint_before": None,
        "message": said.replace(str(folder), "."),
        "finite": None,
        "same_as_untouched": None,
    }


def measure(steps: int, at: int, folder: pathlib.Path, faults: Sequence[Fault] = FAULTS) -> list[dict[str, Any]]:
    """Runs an untouched run and then every fault; returns a record for each."""
    tokenizer = folder / "tokenizer"
    write_tokenizer(tokenizer)
    with contextlib.redirect_stdout(io.StringIO()):
        train(run_config(steps, tokenizer), folder / "untouched", data=data())
    untouched = parameters(folder / "untouched")
    records = []
    for number, fault in enumerate(faults):
        workdir = folder / f"fault-{number}"
        records.append(tried(fault, run_config(steps, tokenizer, **fault.keys), at, workdir, untouched))
        print(f"{fault.name} ({fault.guard}): {records[-1]['message'] or 'not noticed'}", flush=True)
    for value in (float("inf"), float("nan")):
        place = folder / f"weights-{value}"
        place.mkdir()
        records.append(loaded_weights(value, folder / "untouched", place))
        print(f"{records[-1]['fault']}: {records[-1]['message']}", flush=True)
    return records


def table(records: Sequence[dict[str, Any]]) -> Table:
    """Returns what a person reads."""

    def word(value: bool | None) -> str:
        return "" if value is None else "yes" if value else "no"

    def became(record: dict[str, Any]) -> str:
        if not record["caught"]:
            return "nobody noticed"
        if not record["ended"]:
            return f"update {record['skipped'][0]} left out"
        if record["checkpoint_before"] is None:
            return "refused before step 1"
        return f"ended; went on from step {record['checkpoint_before']}"

    columns = ("fault", "guard", "struck at", "caught", "what became of it", "finite", "bits of an untouched run")
    rows = [
        (
            record["fault"],
            record["guard"],
            record["struck"] or None,
            word(record["caught"]),
            became(record),
            word(record["finite"]),
            word(record["same_as_untouched"]),
        )
        for record in records
    ]
    return Table("Faults of numbers", columns, rows)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments. Raises UserError for an update that is none of the run's."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=16, help="updates of a run")
    parser.add_argument("--at", type=int, default=11, help="the update that a fault strikes, from 1")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if not WINDOW < arguments.at <= arguments.steps - 3:
        raise UserError(
            f"--at={arguments.at}: must be more than {WINDOW}, the spike guard's window, and at most --steps - 3."
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = parsed(argv)
    with tempfile.TemporaryDirectory() as folder:
        records = measure(arguments.steps, arguments.at, pathlib.Path(folder))
    result = {
        "command": quality.shown_command(sys.argv).replace("profiles.numbers", "profiles.faults.numbers"),
        **quality.machine(),
        "devices": jax.device_count(),
        "verify_every_steps": VERIFY,
        "spike": {"factor": FACTOR, "window": WINDOW},
        "faults": records,
    }
    files.write_json(arguments.output, result)
    print(to_plain(table(records)))


if __name__ == "__main__":
    command_line.run(main)
