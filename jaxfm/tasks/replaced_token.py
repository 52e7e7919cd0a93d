"""Replaced-token detection: objective "rtd" of task masked_lm (ELECTRA, Clark et al. 2020).

A small generator guesses hidden tokens, as in masked LM; what it proposes replaces them, and the encoder says of every
token whether it is the original. The encoder learns from all tokens, not from the hidden ones alone.
"""

# B batch, T tokens, P predictions a row, V vocabulary, N rows

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.core.task import NOT_CALIBRATED, TOKENIZER_DIR, Evaluation, read_task
from jaxfm.data.pipeline import Rows
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import discriminator_family
from jaxfm.hub.initial import Initial
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.observe.tables import Table
from jaxfm.tasks import mask_shares, masked_lm, masked_predictions
from jaxfm.tasks.masked_lm import MaskedLMObjective, MaskedLMTask
from jaxfm.tasks.replaced_token_predictor import ReplacedTokenPredictor

# What a held-out row's samples are drawn with never changes, so that runs are scored on like replacements.
_EVALUATION_SEED = 20200323
# The generator's part of a model is kept under this name, its head under those of a masked-LM below it.
_GENERATOR = "generator/"
# Metrics under masks of another unit than the run's own.
_OTHER_UNITS = ("generator_loss", "discriminator_loss", "f1")


@dataclasses.dataclass(frozen=True)
class ReplacedTokenObjective:
    """A generator and a discriminator (implements jaxfm.core.task.Objective).

    Attributes:
      text: what is hidden from the generator, as in masked LM.
      generator_layers: of the encoder's shape.
      discriminator_weight: of the discriminator's mean loss beside the generator's.
    """

    text: MaskedLMObjective
    generator_layers: int
    discriminator_weight: float

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.text.encoder

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool, remat: str = "none") -> nnx.Module:
        """Builds encoder, detector and generator."""
        return ReplacedTokenModel(self.text.encoder, self.generator_layers, rngs, dtype=dtype, scan=scan, remat=remat)

    def label_shape(self, row_length: int) -> tuple[tuple[int, ...], np.dtype]:
        """As of masked LM."""
        return self.text.label_shape(row_length)

    def loss(
        self, model: ReplacedTokenModel, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """The generator's summed loss, plus the discriminator's times weight and share of hidden tokens; see below.

        The weight is M, the hidden tokens. The paper minimises (section 2) the generator's mean over those plus 50
        times the discriminator's mean over all N tokens: times M that is its sum times 50 M / N. Here the share that is
        asked for, `mask.ratio`, stands for M / N, which it is on average: a constant, so that sums over micro-batches
        and hosts stay exact.
        """
        mask_key, sample_key, generator_key, detector_key = jax.random.split(key, 4)
        limit = self.text.limit(batch, self.text.masking.unit)
        masked = self.text.mask(batch, mask_key, progress)
        guessed = masked_predictions.guess(model, masked, limit, generator_key)
        sampled_BP = sample(sample_key, guessed["logits"], self.text.vocabulary.maskable)
        tokens_BT = put(masked, guessed, sampled_BP)
        logits_BT = model.replaced({**batch, "tokens": tokens_BT}, key=detector_key)
        found, seen = (
            masked_predictions.compare(guessed),
            self._see(logits_BT, tokens_BT, batch["tokens"], batch["segment_ids"]),
        )
        hidden, total = found["weight"].sum(), {name: value.sum() for name, value in seen.items()}
        # Without a hidden token there is nothing to divide by, and nothing replaced to find.
        loss = self.text.total(found) + self._scale(progress) * jnp.where(hidden > 0, total["loss"], 0.0)
        return loss, (
            hidden,
            {
                "generator_loss": weighted(found["loss"].sum(), hidden),
                "generator_accuracy": weighted((found["right"] * found["weight"]).sum(), hidden),
                "discriminator_loss": weighted(total["loss"], total["tokens"]),
                "discriminator_accuracy": weighted(total["right"], total["tokens"]),
                "precision": weighted(total["found"], total["flagged"]),
                "recall": weighted(total["found"], total["replaced"]),
                **mask_shares.mask_sums(batch, masked["labels"]),
            },
        )

    def _see(
        self, logits_BT: jax.Array, tokens_BT: jax.Array, original_BT: jax.Array, segment_ids_BT: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns arrays [B, T] to sum, over the tokens that can be hidden: neither special ones nor padding.

        A sample that is the original counts as the original (section 2).
        """
        weight_BT = (jnp.asarray(self.text.vocabulary.maskable)[original_BT] & (segment_ids_BT > 0)).astype(jnp.float32)
        replaced_BT, flagged_BT = tokens_BT != original_BT, logits_BT > 0
        return {
            "tokens": weight_BT,
            "loss": jax.nn.softplus(jnp.where(replaced_BT, -logits_BT, logits_BT)) * weight_BT,
            "right": (replaced_BT == flagged_BT) * weight_BT,
            "replaced": replaced_BT * weight_BT,
            "flagged": flagged_BT * weight_BT,
            "found": (replaced_BT & flagged_BT) * weight_BT,
        }

    def _scale(self, progress: jax.Array | float) -> jax.Array | float:
        return self.discriminator_weight * self.text.ratio(progress)


@dataclasses.dataclass(frozen=True)
class ReplacedTokenTask(ReplacedTokenObjective):
    """The same over packed text: rows and tokenizer as in masked LM (implements jaxfm.core.task.Task)."""

    text: MaskedLMTask
    notes: tuple[str, ...]

    name = "masked_lm"
    selection_metrics = {
        "loss": False,
        "generator_loss": False,
        "generator_accuracy": True,
        "discriminator_loss": False,
        "discriminator_accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
    }

    def outputs(self, model: ReplacedTokenModel, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what masked LM does, "sampled" and "suspicion" (its probability) there [B, P], and counts a row [B].

        Samples are drawn with the row's own key: the same whatever the batch, the mesh and the run.
        """
        guessed = masked_predictions.guess(model, batch, self.text.limit(batch, *self.text.units))
        found = masked_predictions.compare(guessed)

        def sample_row(row_1: jax.Array, logits_PV: jax.Array) -> jax.Array:
            row_key = jax.random.fold_in(jax.random.key(_EVALUATION_SEED), row_1[0])
            return sample(row_key, logits_PV, self.text.vocabulary.maskable)

        sampled_BP = jax.vmap(sample_row)(batch["row"], guessed["logits"])
        tokens_BT = put(batch, guessed, sampled_BP)
        original_BT = put(batch, guessed, guessed["target"])
        logits_BT = model.replaced({**batch, "tokens": tokens_BT})
        counts = self._see(logits_BT, tokens_BT, original_BT, batch["segment_ids"])
        return {
            **{name: found[name] for name in ("place", "target", "predicted", "loss")},
            "sampled": sampled_BP,
            "suspicion": jax.nn.sigmoid(jnp.take_along_axis(logits_BT, guessed["place"], axis=1)),
            **{f"row_{name}": value_BT.sum(axis=1) for name, value_BT in counts.items()},
        }

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return self.text.splits()

    def rows(self, split: str) -> Rows:
        """Returns a split's packed rows; those held out are there once for each unit, each with fixed masks."""
        return self.text.rows(split)

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def score(
        self, split: str, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Both losses, the generator's accuracy, and how many of the replaced tokens are found, by unit."""
        by_unit = {}
        for unit, part in masked_lm.unit_parts(self.text.units, outputs).items():
            ours = {name: values[part] for name, values in outputs.items()}
            guessed = masked_lm.unit_scores(ours, self.text.baseline)
            by_unit[unit] = guessed | _totals(ours) | {"generator_loss": guessed["loss"]}
            by_unit[unit]["generator_accuracy"] = guessed["accuracy"]
            # As in training; the z-loss, which is no part of what is wanted, left out.
            discriminator = float(ours["row_loss"].sum(dtype=np.float64)) / max(guessed["targets"], 1)
            by_unit[unit]["loss"] = guessed["loss"] + float(self._scale(1.0)) * discriminator
        own, rows = by_unit[self.text.masking.unit], self.text.held_out[split]
        metrics = {name: own[name] for name in self.selection_metrics}
        for unit, scores in by_unit.items():
            if unit != self.text.masking.unit:
                metrics |= {f"{name}_{unit}": scores[name] for name in _OTHER_UNITS}
        return Evaluation(
            metrics=metrics,
            scores=metrics | {"units": by_unit, **mask_shares.row_counts(rows)},
            tables=(
                _table(
                    by_unit, f"{self.text.ratios[1]:.0%} of the text hidden, by unit{mask_shares.scored_part(rows)}"
                ),
            ),
            predictions=self._records(split, outputs),
            warnings=masked_lm.unigram_plateau_warning({**own, "loss": own["generator_loss"]}),
            bootstrap_data=self.bootstrap_data(outputs),
        )

    def bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns the metrics as a function of the packed rows; other replacements are other data."""
        there, right = outputs["target"] >= 0, outputs["target"] == outputs["predicted"]
        guessed = {"targets": there, "guessed": right & there, "guess_loss": np.where(there, outputs["loss"], 0.0)}
        each = {name: values.sum(axis=-1, dtype=np.float64) for name, values in guessed.items()}
        each |= {name: values for name, values in outputs.items() if name.startswith("row_")}
        gold = {"hidden": outputs["target"], "sampled": np.where(there, outputs["sampled"], -1)}
        return BootstrapData(
            sampling_unit="rows",
            units=masked_lm.row_sums(self.text.units, outputs, each),
            computed=self._row_metrics,
            identity=masked_lm.row_identity(self.text.units, outputs, gold),
        )

    def _row_metrics(self, rows: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        metrics = {}
        for unit in self.text.units:
            total = {
                name.removesuffix(f" {unit}"): weight_RN @ values
                for name, values in rows.items()
                if name.endswith(f" {unit}")
            }
            found = _detection(total)
            found["generator_loss"] = _share(total["guess_loss"], total["targets"])
            found["generator_accuracy"] = _share(total["guessed"], total["targets"])
            discriminator = total["row_loss"] / np.maximum(total["targets"], 1.0)
            found["loss"] = found["generator_loss"] + float(self._scale(1.0)) * discriminator
            if unit == self.text.masking.unit:
                metrics |= {name: found[name] for name in self.selection_metrics}
            else:
                metrics |= {f"{name}_{unit}": found[name] for name in _OTHER_UNITS}
        return metrics

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        own = {"generator_layers": self.generator_layers, "discriminator_weight": self.discriminator_weight}
        self.text.save(workdir, objective="rtd", **own)

    def _records(self, split: str, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row under the masks of the run's own unit: its text as the encoder saw it, and what of
        it was replaced.
        """
        part = masked_lm.unit_parts(self.text.units, outputs)[self.text.masking.unit]
        rows, tokenizer = self.text.held_out[split], self.text.tokenizer
        for index, tokens_T in enumerate(rows.tokens[self.text.units.index(self.text.masking.unit)]):
            row = part.start + index
            gold, sampled = outputs["target"][row], outputs["sampled"][row]
            there, seen_T = gold >= 0, tokens_T.astype(np.int32)
            seen_T[outputs["place"][row][there]] = sampled[there]
            there &= gold != sampled
            yield {
                "row": int(rows.index[index]),
                "correct": bool(outputs["row_right"][row] == outputs["row_tokens"][row]),
                "text": tokenizer.decode(seen_T[seen_T != rows.pad_id].tolist()),
                "replaced": [
                    {"place": int(place), "token": token, "by": by, "probability": round(float(probability), 4)}
                    for place, token, by, probability in zip(
                        outputs["place"][row][there],
                        tokenizer.convert_ids_to_tokens(gold[there].tolist()),
                        tokenizer.convert_ids_to_tokens(sampled[there].tolist()),
                        outputs["suspicion"][row][there],
                        strict=True,
                    )
                ],
                "false_alarms": int(outputs["row_flagged"][row] - outputs["row_found"][row]),
            }


def sample(key: jax.Array, logits: jax.Array, maskable: np.ndarray) -> jax.Array:
    """Draws a token from each distribution [..., V], int32 [...]; no gradient passes.

    Special tokens, and rows of the vocabulary that no token has, are never drawn: text has neither.
    """
    possible = jnp.where(jnp.asarray(maskable), jax.lax.stop_gradient(logits), -jnp.inf)
    return jax.random.categorical(key, possible).astype(jnp.int32)


def put(batch: Mapping[str, jax.Array], guessed: Mapping[str, jax.Array], tokens_BP: jax.Array) -> jax.Array:
    """Returns the batch's tokens [B, T] with `tokens_BP` at the places that have a target."""
    old_BP = jnp.take_along_axis(batch["tokens"], guessed["place"], axis=1)
    new_BP = jnp.where(guessed["target"] >= 0, tokens_BP, old_BP)
    return jnp.put_along_axis(batch["tokens"], guessed["place"], new_BP, axis=1, inplace=False)


def create(config: Config, initial: Initial) -> ReplacedTokenTask:
    """Opens the source and builds the task of a new run.

    All hidden tokens stand behind the mask token, as the paper says (its code leaves 15 % of them as they are).

    Raises:
      UserError: as `jaxfm.tasks.masked_lm.create`.
    """
    if config.mask.logits_chunk:
        raise UserError(
            f"config.mask.logits_chunk: {config.mask.logits_chunk}, but the generator of objective rtd is sampled "
            "from the scores of all hidden places at once. Leave it at 0."
        )
    encoder = initial.encoder
    family = discriminator_family(encoder.family)
    encoder = dataclasses.replace(encoder, family=family or encoder.family)
    initial = dataclasses.replace(initial, encoder=encoder)
    chosen = _masking(config)
    layers = generator_layers(config.mask.generator_depth, encoder)
    parts = [name for name in ("detector", "generator") if any(p.startswith(name) for p in _kept(initial, layers))]
    notes = (
        f"generator: {layers} of the encoder's {encoder.num_layers} layers; "
        f"loaded beside the encoder: {', '.join(parts) or 'nothing'}",
        "hidden tokens all stand behind the mask token (mask.mask_share and random_share are of objective mlm)",
    )
    if not family:
        notes += (
            f"NOTE: transformers has no class for the discriminator of a {encoder.family} encoder: fine-tune from it "
            "here (--config.model.init=run:WORKDIR); jaxfm.export cannot write it",
        )
    text = masked_lm.assemble(config, initial, chosen, notes)
    return ReplacedTokenTask(_numbered(text), layers, config.mask.discriminator_weight, text.notes)


def outline(config: Config, encoder: EncoderConfig) -> ReplacedTokenObjective:
    """Builds model and loss without text or tokenizer, for shapes alone."""
    text = masked_lm.assume(config, encoder, _masking(config))
    layers = generator_layers(config.mask.generator_depth, encoder)
    return ReplacedTokenObjective(text, layers, config.mask.discriminator_weight)


def _masking(config: Config) -> Masking:
    return Masking(config.mask.unit, mask_share=1.0, random_share=0.0)


def generator_layers(depth: float, encoder: EncoderConfig) -> int:
    """Returns how many layers a generator of that share of the encoder's depth has."""
    return max(1, round(depth * encoder.num_layers))


def select_params(task: ReplacedTokenTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the encoder, and detector and generator where they fit."""
    return _kept(initial, task.generator_layers)


def _kept(initial: Initial, layers: int) -> dict[str, np.ndarray]:
    used = ["encoder/", "detector/"]
    depths = {len(value) for name, value in initial.params.items() if name.startswith(f"{_GENERATOR}layers/")}
    if depths == {layers}:
        used.append(_GENERATOR)
    return {name: value for name, value in initial.params.items() if name.startswith(tuple(used))}


def open_task(workdir: pathlib.Path, config: Config, source: str, split: str) -> ReplacedTokenTask:
    """Builds the task of a trained run over one split of (other) text, for evaluation."""
    values = read_task(workdir)
    text = masked_lm.open_task(workdir, config, source, split)
    return ReplacedTokenTask(_numbered(text), values["generator_layers"], values["discriminator_weight"], ())


def open_predictor(workdir: pathlib.Path) -> ReplacedTokenPredictor:
    """Returns what finds replaced tokens with a trained run."""
    values = read_task(workdir)
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    return ReplacedTokenPredictor(EncoderConfig(**values["encoder"]), values["generator_layers"], tokenizer)


# A finder knows all that an export needs.
open_exporter = open_predictor


def _numbered(text: MaskedLMTask) -> MaskedLMTask:
    """Gives each held-out row its number, of which its samples are drawn."""
    held_out = {split: dataclasses.replace(rows, numbered=True) for split, rows in text.held_out.items()}
    return dataclasses.replace(text, held_out=held_out)


def _detection(total: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the discriminator's scores from sums over rows, numbers or arrays."""
    flagged, replaced = total["row_flagged"], total["row_replaced"]
    return {
        "replaced": _share(replaced, total["row_tokens"]),
        "discriminator_loss": _share(total["row_loss"], total["row_tokens"]),
        "discriminator_accuracy": _share(total["row_right"], total["row_tokens"]),
        # As scikit-learn and conlleval: nothing flagged is no success.
        "precision": total["row_found"] / np.maximum(flagged, 1.0),
        "recall": _share(total["row_found"], replaced),
        "f1": _share(2 * total["row_found"], flagged + replaced),
    }


def _totals(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the discriminator's scores over all rows."""
    total = {name: values.sum(dtype=np.float64) for name, values in outputs.items() if name.startswith("row_")}
    return {name: float(value) for name, value in _detection(total).items()}


def _share(part: Any, whole: Any) -> Any:
    """Returns part / whole; NaN where there is no whole."""
    return part / np.where(np.asarray(whole) > 0, whole, math.nan)


def _table(by_unit: Mapping[str, Mapping[str, float]], what: str) -> Table:
    names = {
        "generator_loss": "generator loss",
        "generator_accuracy": "its accuracy",
        "unigram_loss": "unigram loss",
        "replaced": "replaced",
        "discriminator_loss": "discriminator loss",
        "discriminator_accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "f1",
    }
    rows = [(unit, *(scores.get(name) for name in names)) for unit, scores in by_unit.items()]
    return Table(f"Replaced tokens ({what})", ("unit", *names.values()), rows)
