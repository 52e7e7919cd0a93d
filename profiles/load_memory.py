"""Memory that loading a checkpoint takes beside the model itself: peak resident memory of a fresh process.

  python -m profiles.load_memory --output=profiles/results/load_memory.json

Writes a made-up checkpoint of ModernBERT with a vocabulary of 256 k (mmBERT's shape with fewer layers) and loads it as
a run does: `read_checkpoint`, then the state of step 0 with an optimizer that keeps nothing, on 1 and on 4 CPU devices
made of one (the first of mesh axis `fsdp`). A CPU's arrays lie in the host's memory, so the model's own bytes are taken
off: what is left over is what loading needs at once. `largest_tensor_mb` is in f32, whatever the file has.

--label says which jaxfm it was (PYTHONPATH decides); results under other labels are kept.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError
from profiles import command_line

TYPES = ("f32", "bf16")


def main() -> None:
    """Reads the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the JSON file of results")
    parser.add_argument("--label", default="now", help="name of these results in the file")
    parser.add_argument("--vocabulary", type=int, default=256_000, help="entries of the vocabulary")
    parser.add_argument("--layers", type=int, default=12, help="layers of the encoder, of width 768")
    parser.add_argument("--devices", default="1,4", help="numbers of CPU devices")
    parser.add_argument("--types", default=",".join(TYPES), help="types of the numbers in the file")
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)  # of a process that loads one directory
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(pathlib.Path(args.load))))
        return
    devices, types = command_line.integers("--devices", args.devices.split(",")), args.types.split(",")
    if unknown := set(types) - set(TYPES):
        raise UserError(f"--types={args.types}: {', '.join(sorted(unknown))} is not one of {', '.join(TYPES)}.")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in types:
            write(pathlib.Path(folder), args.vocabulary, args.layers, dtype)
            for count in devices:
                runs.append({"dtype": dtype, "devices": count, **loaded(folder, count)})
                print(runs[-1], flush=True)
    results = files.read_json(args.output) if args.output.is_file() else {}
    words = " ".join(word for word in sys.argv[1:] if not word.startswith("--output"))
    results[args.label] = {"command": f"python -m profiles.load_memory {words}".strip(), "runs": runs}
    files.write_json(args.output, results)


def write(folder: pathlib.Path, vocabulary: int, layers: int, dtype: str) -> None:
    """Writes config.json and model.safetensors of random numbers, one tensor after another."""
    import dataclasses

    import ml_dtypes

    from jaxfm.families.registry import preset
    from jaxfm.hub.config_json import hf_config

    encoder = dataclasses.replace(preset("modern_base"), vocab_size=vocabulary, num_layers=layers)
    files.write_json(folder / "config.json", hf_config(encoder, pad_token_id=0, labels=()))
    width, inner = encoder.hidden_size, encoder.ffn_size
    shapes = {"embeddings.tok_embeddings.weight": (vocabulary, width), "embeddings.norm.weight": (width,)}
    for layer in range(layers):
        start = f"layers.{layer}"
        shapes |= {f"{start}.attn_norm.weight": (width,)} if layer else {}
        shapes |= {f"{start}.attn.Wqkv.weight": (3 * width, width), f"{start}.attn.Wo.weight": (width, width)}
        shapes |= {f"{start}.mlp_norm.weight": (width,), f"{start}.mlp.Wi.weight": (2 * inner, width)}
        shapes |= {f"{start}.mlp.Wo.weight": (width, inner)}
    shapes["final_norm.weight"] = (width,)
    kind: Any = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * np.dtype(kind).itemsize
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for first in range(0, shape[0], 4096):
                rows = (min(4096, shape[0] - first), *shape[1:])
                file.write((0.02 * draw.standard_normal(rows, np.float32)).astype(kind).tobytes())


def loaded(folder: str, devices: int) -> dict[str, Any]:
    """Loads a directory in a process of its own."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, __file__, "--output=-", f"--load={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def load(folder: pathlib.Path) -> dict[str, Any]:
    """Loads `folder` as a run of masked LM does and returns what it took."""
    import jax
    import optax
    from flax import nnx

    from jaxfm.config import MeshConfig
    from jaxfm.core.build import DEFAULT_BUILD
    from jaxfm.core.encoder_config import EncoderConfig
    from jaxfm.hub.weights import read_checkpoint
    from jaxfm.models.heads import MaskedLM
    from jaxfm.parallel import host_memory
    from jaxfm.parallel.mesh import build_abstract, make_mesh
    from jaxfm.training.state import TrainState, abstract_state, new_state

    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))

    def state_of(encoder: EncoderConfig, params: Any) -> TrainState:
        optimizer = optax.identity()

        def make(rngs: nnx.Rngs) -> nnx.Module:
            return MaskedLM(encoder, DEFAULT_BUILD, rngs)

        _, abstract = build_abstract(lambda: make(nnx.Rngs(0)), mesh)
        return jax.block_until_ready(new_state(make, optimizer, abstract_state(abstract, optimizer, mesh), 0, params))

    state_of(EncoderConfig(vocab_size=128, hidden_size=32, num_layers=1, num_heads=2, ffn_size=64), {})  # warm
    before, started = host_memory.peak_resident(), time.monotonic()
    checkpoint = read_checkpoint(folder)
    checked = time.monotonic()
    state = state_of(checkpoint.encoder, checkpoint.params)
    ended = time.monotonic()
    shards = [shard.data for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
    own = sum(shard.nbytes for shard in shards)
    largest = checkpoint.encoder.vocab_size * checkpoint.encoder.hidden_size * 4
    beside = host_memory.peak_resident() - before - own
    return {
        "model_mb": round(own / 1e6, 1),
        "largest_tensor_mb": round(largest / 1e6, 1),
        "peak_beside_model_mb": round(beside / 1e6, 1),
        "of_largest_tensor": round(beside / largest, 3),
        "read_checkpoint_s": round(checked - started, 2),
        "to_devices_s": round(ended - checked, 2),
    }


if __name__ == "__main__":
    command_line.run(main)
