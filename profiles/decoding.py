"""Tokens/s of text that is written token by token: with a cache, without one, and by transformers' generate.

  python -m profiles.decoding --output=profiles/results/decoding.json

A BERT of MiniLM's shape (--layers, --width) whose tokens see none after themselves, with random weights, goes on from
random prefixes of --prefix tokens, one a row, by --new tokens each, the likeliest every time; none may end before the
last token. Three ways, which write the same tokens, take turns in one process:

cache          jaxfm.models.generation: keys and values are kept
whole texts    the same program without a cache: a pass over the whole row for each new token
transformers   BertLMHeadModel.generate with its cache, torch on the CPU, with the same weights (f32 alone)

A turn's time is that of all new tokens, reading the prefix included, compilation not. Given is the median over the
turns; "same" is the share of the tokens of the cache that another way writes too.
"""

# B rows, T tokens, V vocabulary

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.decoding_config import Decoding
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.hub.weights import write_tensors
from jaxfm.models.generation import check_lengths, generate
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel import mesh as meshes
from profiles import command_line
from profiles.quality import machine, shown_command

END = 102  # [SEP] of BERT's vocabularies
CACHE, WHOLE, THEIRS = "cache", "whole texts", "transformers"
# (prefixes [B, T]) -> new tokens [B, new].
Writer = Callable[[np.ndarray], np.ndarray]


def shape_of(arguments: argparse.Namespace) -> EncoderConfig:
    """Returns the shape of the model, heads 32 wide. Raises UserError for sizes that no encoder has."""
    if arguments.width % 32 or arguments.width < 32:
        raise UserError(f"--width={arguments.width}: must be a multiple of 32, the width of a head.")
    config = dataclasses.replace(
        preset("bert_base"),
        num_layers=arguments.layers,
        hidden_size=arguments.width,
        num_heads=arguments.width // 32,
        ffn_size=4 * arguments.width,
        sight=CAUSAL,
    )
    check_lengths(config, Decoding(max_tokens=arguments.new), arguments.prefix, "--new: ")
    return config


def random_model(config: EncoderConfig, build: Build) -> tuple[Any, Any]:
    """Returns the graph definition and parameters, wide enough that scores of tokens differ clearly."""
    make = lambda: MaskedLM(config, build, nnx.Rngs(0))  # noqa: E731
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> jax.Array:
        spread = 0.05 * draw.standard_normal(leaf.shape, np.float32)
        return jnp.asarray((path[-1].key == "scale") + spread)

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


def fields(tokens_BT: Any, length: Any) -> dict[str, jax.Array]:
    """Returns a batch of rows of one text each, of which the first `length` tokens are read."""
    places_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    inside = places_BT < length
    positions = jnp.where(inside, places_BT, 0)
    return {"tokens": jnp.asarray(tokens_BT), "segment_ids": inside.astype(jnp.int32), "positions": positions}


def with_cache(graphdef: Any, params: Any, new: int) -> Writer:
    """Returns what writes with a cache."""

    @jax.jit
    def run(params: Any, tokens_BT: jax.Array) -> jax.Array:
        batch = fields(tokens_BT, tokens_BT.shape[1])
        settings = Decoding(max_tokens=new, min_tokens=new - 1)
        return generate(nnx.merge(graphdef, params), batch, settings, end_id=END, segments=1).tokens

    return lambda prefixes: np.asarray(run(params, prefixes))[:, 0]


def without_cache(graphdef: Any, params: Any, new: int) -> Writer:
    """Returns what reads the whole row for each new token, in one program too."""

    @jax.jit
    def run(params: Any, tokens_BT: jax.Array) -> jax.Array:
        model, prefix = nnx.merge(graphdef, params), tokens_BT.shape[1]
        row_BT = jnp.pad(tokens_BT, ((0, 0), (0, new)))

        def one_more(number: jax.Array, row_BT: jax.Array) -> jax.Array:
            hidden_BTD = model.hidden(fields(row_BT, prefix + number))
            last_B1D = jax.lax.dynamic_slice_in_dim(hidden_BTD, prefix + number - 1, 1, axis=1)
            logits_BV = model.logits(last_B1D)[:, 0]
            logits_BV = jnp.where((jnp.arange(logits_BV.shape[1]) == END) & (number < new - 1), -jnp.inf, logits_BV)
            chosen_B1 = jnp.argmax(logits_BV, axis=-1)[:, None].astype(jnp.int32)
            return jax.lax.dynamic_update_slice_in_dim(row_BT, chosen_B1, prefix + number, axis=1)

        return jax.lax.fori_loop(0, new, one_more, row_BT)[:, prefix:]

    return lambda prefixes: np.asarray(run(params, prefixes))


def by_transformers(config: EncoderConfig, params: Any, new: int) -> Writer:
    """Returns transformers' greedy decoding with the same weights."""
    import safetensors.torch
    import torch
    import transformers

    theirs = transformers.BertConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, intermediate_size=config.ffn_size, layer_norm_eps=config.norm_eps,
        max_position_embeddings=config.max_positions, is_decoder=True, eos_token_id=END, pad_token_id=0,
    )  # fmt: skip
    model: Any = transformers.BertLMHeadModel(theirs).eval()
    flat = {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()}
    for path in ("encoder/embeddings/word/embedding", "decoder/bias"):
        flat[path] = np.where(
            (np.arange(len(flat[path])) < config.vocab_size).reshape(-1, *[1] * (flat[path].ndim - 1)), flat[path], 0
        )
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.safetensors"
        write_tensors(path, config, "vocabulary", flat)
        model.load_state_dict(safetensors.torch.load_file(path), strict=False)
    model.tie_weights()

    def write(prefixes: np.ndarray) -> np.ndarray:
        tokens = torch.tensor(prefixes).long()
        with torch.inference_mode():
            found = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=new,
                min_new_tokens=new - 1,
            )  # fmt: skip
        return found[:, prefixes.shape[1] :].numpy()

    return write


def measured(writers: Mapping[str, Writer], prefixes: np.ndarray, turns: int) -> dict[str, Any]:
    """Returns seconds and tokens/s of each way, and the ratios."""
    tokens = {name: write(prefixes) for name, write in writers.items()}  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(turns):
        for name, write in writers.items():
            start = time.perf_counter()
            write(prefixes)
            seconds[name].append(time.perf_counter() - start)
    rates = {name: tokens[name].size / statistics.median(each) for name, each in seconds.items()}
    return {
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "seconds": {name: [round(value, 4) for value in each] for name, each in seconds.items()},
        "cache_against_whole_texts": round(rates[CACHE] / rates[WHOLE], 2),
        "same_tokens_as_whole_texts": round(float((tokens[CACHE] == tokens[WHOLE]).mean()), 4),
        **(
            {
                "cache_against_transformers": round(rates[CACHE] / rates[THEIRS], 2),
                "same_tokens_as_transformers": round(float((tokens[CACHE] == tokens[THEIRS]).mean()), 4),
            }
            if THEIRS in writers
            else {}
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON and prints a table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384, help="of the hidden states, a multiple of 32")
    parser.add_argument("--batches", default="1,16", help="numbers of texts that are written at once")
    parser.add_argument("--prefix", type=int, default=64, help="tokens of a prefix")
    parser.add_argument("--new", type=int, default=64, help="new tokens of a text")
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"), help="bf16: without transformers")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", required=True, help="JSON file of results")
    arguments = command_line.parse_own(parser, argv)
    batches = command_line.integers("--batches", arguments.batches.split(","))
    counts = {name: getattr(arguments, name) for name in ("layers", "prefix", "new", "turns")}
    for flag, value in {"batches": min(batches), **counts}.items():
        if value < 1:
            raise UserError(f"--{flag}={value}: must be at least 1.")
    config, half = shape_of(arguments), arguments.precision == "bf16"
    graphdef, params = random_model(config, Build(jnp.dtype(jnp.bfloat16 if half else jnp.float32)))
    writers = {
        name: make(graphdef, params, arguments.new) for name, make in ((CACHE, with_cache), (WHOLE, without_cache))
    }
    if not half:
        writers[THEIRS] = by_transformers(config, params, arguments.new)
    draw, results = np.random.default_rng(1), {}
    for batch in batches:
        prefixes = draw.integers(200, config.vocab_size, (batch, arguments.prefix)).astype(np.int32)
        results[str(batch)] = measured(writers, prefixes, arguments.turns)
    files.write_json(
        arguments.output,
        {"command": shown_command(sys.argv), **machine(), "settings": vars(arguments), "batches": results},
    )
    rows = [(batch, *found["tokens_per_second"].values()) for batch, found in results.items()]
    columns = ("texts at once", *writers)
    print(to_markdown(Table("New tokens a second", columns, rows, formats=dict.fromkeys(columns[1:], ".0f"))))
    print(json.dumps({batch: found["cache_against_whole_texts"] for batch, found in results.items()}))


if __name__ == "__main__":
    command_line.run(main)
