"""Coordinate check of muP: how far activations move in a few updates, at several widths, with and without `optim.mup`.

  python -m profiles.coordinate_check --preset=bert_tiny --widths=64,128,256,512,1024 --seeds=0,1,2,3 \
      --output=profiles/results/coordinate_check.json --image=docs/images/mup_coordinates.png

Masked LM of a preset's shape at each width (heads keep their width, the feed-forward part its ratio), all with the same
rate and the same batches of generated text, no dropout. Of the last hidden states and of the logits at the predicted
tokens it reads the standard deviation at step 0 and the mean absolute change since then after each update. Under muP
the changes are the same at all widths, a slope of 0 in the logarithms of both; under the standard parametrisation they
grow (Yang et al. 2022). Logits at step 0 fall under muP, slope -1/2, and rise without it.
The first width is the base.
"""

# B rows, T tokens, S steps

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import Config, MeshConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.observe import plots
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.schema import replaced
from jaxfm.training.session import Session, make_session
from profiles import command_line, quality
from profiles.training_parity import LENGTH, ROWS, VOCABULARY, PlainMaskedLM, PlainSpec, batches

STANDARD, MUP = "standard", "muP"
PANELS = {"hidden": "Hidden states", "logits": "Logits"}
# Name of an activation -> its values, and at which of the places along their first axes they are read.
Probed = Mapping[str, tuple[jax.Array, jax.Array]]


def at_width(encoder: EncoderConfig, width: int) -> EncoderConfig:
    """Returns the encoder at another width: heads keep their width, other sizes their ratios. Raises UserError."""
    inner = encoder.head_dim * encoder.num_heads
    sizes = {
        "num_heads": encoder.num_heads,
        "num_kv_heads": encoder.num_kv_heads,
        "ffn_size": encoder.ffn_size,
    }
    if odd := [name for name, size in sizes.items() if size * width % encoder.hidden_size]:
        raise UserError(
            f"--widths: {width} is no width for {odd[0]} {sizes[odd[0]]} at {encoder.hidden_size}, whose heads are "
            f"{encoder.head_dim} wide. Take multiples of {encoder.head_dim * encoder.hidden_size // inner}."
        )
    changed = {name: size * width // encoder.hidden_size for name, size in sizes.items()}
    return dataclasses.replace(encoder, hidden_size=width, head_size=0, **changed)


def small_shape(name: str, layers: int, head_dim: int) -> EncoderConfig:
    """Returns a preset's shape with few layers, a small vocabulary, no dropout and heads of that width (0: its own)."""
    encoder = preset(name)
    heads = encoder.hidden_size // head_dim if head_dim else encoder.num_heads
    return dataclasses.replace(
        encoder,
        num_layers=layers,
        num_heads=heads,
        vocab_size=VOCABULARY,
        max_positions=LENGTH,
        dropout=0.0,
        attention_dropout=0.0,
    )


def probe_masked_lm(model: Any, batch: Mapping[str, Any]) -> Probed:
    """Returns the last hidden states [B, T, D] and the logits [B, T, V] of a masked LM, and where it predicts."""
    hidden_BTD, predicted_BT = model.hidden(batch), batch["labels"] >= 0
    logits_BTV = model.logits(hidden_BTD)[..., :VOCABULARY]
    return {"hidden": (hidden_BTD, predicted_BT), "logits": (logits_BTV, predicted_BT)}


def measure(
    session: Session,
    probe: Callable[[Any, Mapping[str, Any]], Probed],
    given: Mapping[int, Sequence[Mapping[str, Any]]],
) -> dict[str, np.ndarray]:
    """Returns name of an activation -> [seeds, 1 + steps]: its deviation at step 0, then its mean absolute change.

    Args:
      session: of one width.
      probe: (model, batch) -> what is read of the model at the first batch.
      given: seed of the weights -> a batch for each update, the same at every width.
    """
    read = jax.jit(lambda params, batch: probe(nnx.merge(session.graphdef, params), batch))
    found: dict[str, list[list[float]]] = {}
    for seed, host_batches in given.items():
        some = [dict(session.shard(batch)) for batch in host_batches]
        state = session.initial_state(seed)
        start = read(state.params, some[0])
        rows = {name: [float(jnp.std(value[chosen]))] for name, (value, chosen) in start.items()}
        for stepped in session.steps(state, some):
            for name, (value, chosen) in read(stepped.state.params, some[0]).items():
                rows[name].append(float(jnp.mean(jnp.abs(value - start[name][0])[chosen])))
        for name, row in rows.items():
            found.setdefault(name, []).append(row)
    return {name: np.asarray(rows) for name, rows in found.items()}


def measure_masked_lm(
    encoder: EncoderConfig, changes: Mapping[str, Any], seeds: Sequence[int], steps: int
) -> dict[str, np.ndarray]:
    """Returns what `measure` does of a masked LM on generated text; `changes` are of the config."""
    values = {"train.batch_size": ROWS, "train.precision": "f32", "data.row_length": LENGTH, "model.scan_layers": True}
    config = replaced(Config(), {**values, "optim.schedule": "constant", "optim.warmup_fraction": 0.0, **changes})
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        session = make_session(config, PlainMaskedLM(PlainSpec(encoder, LENGTH)), mesh, total_steps=steps)
        return measure(session, probe_masked_lm, {seed: batches(0, seed)[:steps] for seed in seeds})


def slopes(widths: Sequence[int], sizes_WNS: np.ndarray) -> np.ndarray:
    """Returns for each seed and step the slope of log size over log width [seeds, 1 + steps] by least squares.

    `sizes_WNS`: of each width what `measure` gives.
    """
    x = np.log(np.asarray(widths, np.float64))
    x -= x.mean()
    return np.tensordot(x, np.log(sizes_WNS), axes=1) / np.sum(x * x)


def run(arguments: argparse.Namespace, widths: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    """Measures every width in both parametrisations; returns what is written to --output."""
    shape = small_shape(arguments.preset, arguments.layers, arguments.head_size)
    encoders = [at_width(shape, width) for width in widths]
    result: dict[str, Any] = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "settings": {name: getattr(arguments, name) for name in ("preset", "layers", "head_size", "rate", "steps")},
        "widths": list(widths),
        "seeds": list(seeds),
    }
    for name, base in ((STANDARD, 0), (MUP, widths[0])):
        sizes = []
        for encoder in encoders:
            changes = {"optim.learning_rate": arguments.rate, "optim.mup": base}
            sizes.append(measure_masked_lm(encoder, changes, seeds, arguments.steps))
            print(f"{name}, width {encoder.hidden_size}: done", flush=True)
        result[name] = {panel: summary(widths, np.stack([size[panel] for size in sizes])) for panel in PANELS}
    return result


def summary(widths: Sequence[int], sizes_WNS: np.ndarray) -> dict[str, Any]:
    """Returns mean and sample deviation over seeds of each width and step, and of the slopes of each step."""
    many = sizes_WNS.shape[1] > 1
    found_NS = slopes(widths, sizes_WNS)
    return {
        "mean": sizes_WNS.mean(axis=1).tolist(),
        "sd": (sizes_WNS.std(axis=1, ddof=1) if many else 0 * sizes_WNS[:, 0]).tolist(),
        "slope": np.round(found_NS.mean(axis=0), 3).tolist(),
        "slope_sd": np.round(found_NS.std(axis=0, ddof=1) if many else 0 * found_NS[0], 3).tolist(),
    }


def draw(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Draws the sizes by width, a line a step: above the hidden states, below the logits; muP on the right."""
    figure = plots.new_figure(7.2)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (panel, title) in zip(panels, PANELS.items(), strict=True):
        for axes, name in zip(row, (STANDARD, MUP), strict=True):
            mean_WS, sd_WS = np.asarray(result[name][panel]["mean"]), np.asarray(result[name][panel]["sd"])
            steps = mean_WS.shape[1]
            for step in range(steps):
                colour = plots.INK if step == 0 else plots.COLOURS[(step - 1) % len(plots.COLOURS)]
                label = "deviation at step 0" if step == 0 else f"change after {step}"
                axes.errorbar(
                    result["widths"], mean_WS[:, step], yerr=sd_WS[:, step], color=colour, label=label, linewidth=2,
                    linestyle=":" if step == 0 else "-", marker="o", markersize=4, capsize=2,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(result["widths"], labels=[str(width) for width in result["widths"]])
            plots.style(axes, title=f"{title}, {name}", x_label="hidden_size", y_label="size")
            axes.grid(axis="y", color=plots.GRID, linewidth=0.8)
    panels[0][0].legend(frameon=False, labelcolor=plots.INK, fontsize=8)
    plots.save_figure(figure, path)


def table(result: Mapping[str, Any]) -> Table:
    """Returns the slopes as a table: a row a step."""
    pairs = [(name, panel) for panel in PANELS for name in (STANDARD, MUP)]
    rows = [
        (
            "deviation at 0" if step == 0 else f"change after {step}",
            *(
                f"{result[name][panel]['slope'][step]:+.2f} ± {result[name][panel]['slope_sd'][step]:.2f}"
                for name, panel in pairs
            ),
        )
        for step in range(result["settings"]["steps"] + 1)
    ]
    return Table("Slopes", ("step", *(f"{panel}, {name}" for name, panel in pairs)), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--preset", default="bert_tiny", help="whose shape is widened")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--head_size", type=int, default=16, help="width of a head; 0: the preset's")
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the sizes by width")
    arguments = command_line.parse_own(parser, argv)
    widths = command_line.integers("--widths", arguments.widths.split(","))
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    if len(widths) < 2:
        raise UserError(f"--widths={arguments.widths}: a slope needs at least two widths.")
    result = run(arguments, widths, seeds)
    files.write_json(arguments.output, result)
    if arguments.image:
        draw(arguments.image, result)
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)
