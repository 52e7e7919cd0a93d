"""What the device can do at the most: large matrix products and copies, as measured here.

  python -m profiles.ceilings --output=profiles/results/ceilings.json [--sizes=4096,8192,16384] [--copy-mib=4096]

A product of two square matrices in bf16 with sums in f32, and y = x + 1 over an array of f32, which reads and writes
all of it. Each is chained several times in one program, so that no call overhead counts; the median of several calls,
and the best. MFU is a share of the published peak; what a real product reaches is the ceiling that a step can hope for.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm import files
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel import chips
from profiles import command_line
from profiles.quality import machine, shown_command
from profiles.steps import devices

CHAIN = 8  # products or copies of one call


def timed(run: Callable[[jax.Array], jax.Array], start: jax.Array, calls: int) -> list[float]:
    """Returns the seconds of each call after two that warm up; each takes the result of the one before."""
    seconds = []
    for _ in range(calls + 2):
        begin = time.perf_counter()
        start = jax.block_until_ready(run(start))
        seconds.append(time.perf_counter() - begin)
    return seconds[2:]


def product(size: int, calls: int) -> dict[str, Any]:
    """Times products of [size, size] matrices; returns operations a second."""
    key = jax.random.key(0)
    # Scaled so that what is multiplied again and again neither overflows nor vanishes.
    other = jax.random.normal(key, (size, size), jnp.bfloat16) / jnp.bfloat16(size**0.5)

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        def once(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.dot(x, other, preferred_element_type=jnp.float32).astype(jnp.bfloat16), None

        return lax.scan(once, x, None, length=CHAIN)[0]

    seconds = timed(run, jax.random.normal(key, (size, size), jnp.bfloat16), calls)
    flops = 2 * CHAIN * size**3
    return {
        "size": size,
        "tflops": flops / statistics.median(seconds) / 1e12,
        "best_tflops": flops / min(seconds) / 1e12,
    }


def copy(mib: int, calls: int) -> dict[str, Any]:
    """Times y = x + 1; returns bytes read and written a second."""

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        # A barrier, or the additions would become one.
        return lax.fori_loop(0, CHAIN, lambda _, x: lax.optimization_barrier(x + 1.0), x)

    seconds = timed(run, jnp.zeros(mib * 2**18, jnp.float32), calls)
    moved = 2 * CHAIN * mib * 2**20
    return {"mib": mib, "gb_per_second": moved / statistics.median(seconds) / 1e9, "best": moved / min(seconds) / 1e9}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON, prints the table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--sizes", default="4096,8192,16384")
    parser.add_argument("--copy-mib", type=int, default=4096)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args(argv)
    products = [product(size, arguments.calls) for size in command_line.integers("--sizes", arguments.sizes.split(","))]
    copied = copy(arguments.copy_mib, arguments.calls)
    peak = chips.peak_flops(jax.devices()[0].device_kind)
    result = {"command": shown_command(sys.argv), **machine(), **devices(), "products": products, "copy": copied}
    files.write_json(arguments.output, result | {"published_peak_flops": peak})
    rows: list[tuple[str, str]] = [
        *((f"bf16 product of {each['size']:,}", f"{each['tflops']:,.1f} TFLOP/s") for each in products),
        (f"copy of {copied['mib']:,} MiB", f"{copied['gb_per_second']:,.0f} GB/s"),
    ]
    print(to_markdown(Table("Ceilings", ("what", "median"), rows)))


if __name__ == "__main__":
    command_line.run(main)
