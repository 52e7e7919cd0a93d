"""50 updates beside transformers: the same weights, batches, loss and optimizer, step by step, without dropout.

  python -m profiles.training_parity --output=profiles/results/training_parity.json

Masked LM of small models (4 layers of 64) from random weights that transformers drew. jaxfm trains on packed rows, from
transformers' files; transformers gets each text of a row as a padded sequence. AdamW with linear decay and clipping in
both. The text is a chain of tokens in which each has four likely successors, so that there is something to learn. Needs
torch.
"""

# B rows, T tokens, V vocabulary

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config, MeshConfig
from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.registry import FAMILIES
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.heads import MaskedLM
from jaxfm.models.inputs.text import fields
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.schema import replaced
from jaxfm.training.session import make_session
from profiles import command_line, quality
from profiles.mlm_convergence import sequences
from profiles.model_parity import CASES

NAMES = ("bert", "roberta", "deberta-v2", "modernbert", "distilbert")
STEPS, ROWS, LENGTH, VOCABULARY, MASK = 50, 4, 64, 300, 4
RATE, DECAY, CLIP = 1e-3, 0.01, 1.0
_SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
_DISTILBERT = {"dim": 64, "n_layers": 4, "n_heads": 4, "hidden_dim": 128}
_NO_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "mlp_dropout")


@dataclasses.dataclass(frozen=True)
class PlainSpec:
    """What is trained (implements jaxfm.core.spec.Spec)."""

    encoder: EncoderConfig
    row_length: int

    def batch_spec(self) -> BatchSpec:
        """Returns the arrays of text and a label a token, -1 where nothing is predicted."""
        return fields(self.row_length) | {"labels": Field((self.row_length,), fill=-1, axes=("tokens",))}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> nnx.Module:
        """Returns encoder and head."""
        return MaskedLM(self.encoder, build, rngs)


@dataclasses.dataclass(frozen=True)
class PlainMaskedLM:
    """Cross-entropy at tokens that the batch names (implements jaxfm.core.objective.Objective)."""

    spec: PlainSpec
    whole_batch: bool = False

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the sum over the labels; no dropout."""
        logits_BTV, there_BT = model.logits(model.hidden(batch)), batch["labels"] >= 0
        target_BT1 = jnp.where(there_BT, batch["labels"], 0)[..., None]
        loss_BT = -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), target_BT1, axis=-1)[..., 0]
        return Loss(jnp.sum(jnp.where(there_BT, loss_BT, 0.0)), jnp.sum(there_BT, dtype=jnp.float32), {})

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Nothing is scored here."""
        return {}

    def logits_per_row(self) -> float:
        """A number an entry of the vocabulary and token."""
        return float(self.spec.row_length * VOCABULARY)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Not counted here."""
        return 0.0


def batches(pad: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Returns packed rows for each step; 15 % of the tokens are masks."""
    draw = np.random.default_rng(seed)
    successors = draw.integers(5, VOCABULARY, (VOCABULARY, 4))
    found = []
    for _ in range(STEPS):
        batch = {name: np.zeros((ROWS, LENGTH), np.int32) for name in ("tokens", "segment_ids", "positions")}
        batch["tokens"][:] = pad
        batch["labels"] = np.full((ROWS, LENGTH), -1, np.int32)
        for row in range(ROWS):
            start, segment = 0, 1
            while (length := int(draw.integers(8, 30))) <= LENGTH - start:
                text = [int(draw.integers(5, VOCABULARY))]
                while len(text) < length:
                    text.append(int(successors[text[-1], draw.integers(0, 4)]))
                tokens, masked = np.asarray(text), draw.random(length) < 0.15
                place = slice(start, start + length)
                batch["tokens"][row, place] = np.where(masked, MASK, tokens)
                batch["labels"][row, place] = np.where(masked, tokens, -1)
                batch["segment_ids"][row, place] = segment
                batch["positions"][row, place] = np.arange(length)
                start, segment = start + length, segment + 1
        found.append(batch)
    return found


def their_model(name: str, seed: int) -> Any:
    """Returns transformers' ForMaskedLM with its own random weights."""
    import torch
    import transformers

    case = CASES[name]
    values = {**case.values, **(_DISTILBERT if name == "distilbert" else _SIZES)}
    positions = {"max_position_embeddings": LENGTH + (2 if case.pad else 0)}
    values |= {"vocab_size": VOCABULARY, "pad_token_id": case.pad, **positions}
    config = getattr(transformers, case.config)(**values)
    for key in _NO_DROPOUT:
        if hasattr(config, key):
            setattr(config, key, 0.0)
    torch.manual_seed(seed)
    return getattr(transformers, f"{FAMILIES[name].architecture}ForMaskedLM")(config)


def their_losses(model: Any, pad: int, given: list[dict[str, np.ndarray]]) -> list[float]:
    """Trains transformers' model; returns the loss before each update."""
    import torch
    from transformers.optimization import get_linear_schedule_with_warmup

    def plain(name: str) -> bool:
        return name.endswith("bias") or "norm" in name.lower()

    groups = [
        {"params": [p for name, p in model.named_parameters() if not plain(name)], "weight_decay": DECAY},
        {"params": [p for name, p in model.named_parameters() if plain(name)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    model.train()
    found = []
    for batch in given:
        loss = model(**sequences(batch, pad)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        found.append(float(loss.detach()))
    return found


def our_losses(folder: pathlib.Path, given: list[dict[str, np.ndarray]]) -> list[float]:
    """Trains jaxfm's model from transformers' files; returns the loss before each update."""
    read = read_checkpoint(folder)
    optim = {
        "optim.learning_rate": RATE, "optim.weight_decay": DECAY, "optim.clip_norm": CLIP, "optim.schedule": "linear",
        "optim.warmup_fraction": 0.0, "optim.final_fraction": 0.0,
    }  # fmt: skip
    config = replaced(Config(), optim | {"train.batch_size": ROWS, "train.precision": "f32", "data.row_length": LENGTH})
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        session = make_session(config, PlainMaskedLM(PlainSpec(read.encoder, LENGTH)), mesh, total_steps=STEPS)
        found = []
        for stepped in session.steps(session.initial_state(0, read.params), given):
            total, weight = np.asarray(stepped.take_sums()["loss"])
            found.append(float(total / weight))
    return found


def compare(name: str, seed: int) -> dict[str, Any]:
    """Returns both curves of a family and their largest relative difference."""
    given, pad = batches(CASES[name].pad), CASES[name].pad
    model = their_model(name, seed)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = our_losses(pathlib.Path(folder), given)
    theirs = their_losses(model, pad, given)
    difference = max(abs(one - other) / other for one, other in zip(ours, theirs, strict=True))
    return {"largest relative difference": difference, "jaxfm": ours, "transformers": theirs}


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--families", default=",".join(NAMES))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    names, seeds = arguments.families.split(","), command_line.integers("--seeds", arguments.seeds.split(","))
    for name in names:
        if name not in CASES:
            raise UserError(f"--families: {name!r} is not one of {', '.join(CASES)}. {did_you_mean(name, CASES)}")
    results = {name: {str(seed): compare(name, seed) for seed in seeds} for name in names}
    rows = [
        (
            f"`{name}`",
            *(f"{found['largest relative difference']:.1e}" for found in runs.values()),
            " ".join(f"{found['transformers'][0]:.2f} to {found['transformers'][-1]:.2f}" for found in runs.values()),
        )
        for name, runs in results.items()
    ]
    settings = {"updates": STEPS, "rows": ROWS, "row length": LENGTH, "rate": RATE}
    written = {"command": quality.shown_command(sys.argv), **quality.machine(), "settings": settings}
    files.write_json(arguments.output, {**written, "families": results})
    print(to_markdown(Table("50 updates", ("family", *(f"seed {seed}" for seed in seeds), "loss"), rows)))


if __name__ == "__main__":
    command_line.run(main)
