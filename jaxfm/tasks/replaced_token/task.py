"""The task `replaced_token`: a corpus of text to a generator and a discriminator, rows and scores."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.families.registry import discriminator_family
from jaxfm.tasks.masked_checks import check_text
from jaxfm.tasks.masked_lm.spec import NAME as MASKED_LM
from jaxfm.tasks.masked_text import (
    MOVED_KEYS,
    MaskedText,
    made_up_vocabulary,
    older_spec,
    open_text,
    reopen_text,
)
from jaxfm.tasks.older_configs import upgraded
from jaxfm.tasks.replaced_token.objective import ReplacedTokenObjective
from jaxfm.tasks.replaced_token.predictor import ReplacedTokenPredictor
from jaxfm.tasks.replaced_token.scorer import DIRECTIONS, ReplacedTokenScorer
from jaxfm.tasks.replaced_token.spec import NAME, ReplacedTokenConfig, ReplacedTokenSpec, generator_layers

# The generator's part of a model is kept under this name, its head under those of a masked-LM below it.
_GENERATOR = "generator/"


@dataclasses.dataclass(frozen=True)
class ReplacedTokenTask:
    """A generator and a discriminator over packed text (implements jaxfm.core.task.Task)."""

    objective: ReplacedTokenObjective
    text: MaskedText

    directions = DIRECTIONS
    chosen = types.MappingProxyType({"eval.metric": "loss"})

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the log."""
        return self.text.notes

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> packed rows."""
        return self.text.datasets

    def scorer(self, split: str) -> ReplacedTokenScorer:
        """Returns what scores a held-out split."""
        return ReplacedTokenScorer(self.text, split, float(self.objective.discriminator_factor(1.0)))

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json, the tokenizer's files and the token counts."""
        self.text.save(workdir)
        write_spec(workdir, NAME, self.objective.spec)


class ReplacedTokenDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ReplacedTokenConfig
    defaults: Mapping[str, Any] = types.MappingProxyType({})
    moved: Mapping[str, str] = {
        **MOVED_KEYS,
        "task.causal_until": "is of the task masked_lm alone: the models of other tasks predict no next tokens first. "
        "Leave it out.",
        "mask.generator_depth": "task.generator_depth",
        "mask.discriminator_weight": "task.discriminator_weight",
        "objective": (
            f"replaced-token detection is the task {NAME!r} now: start from its config, e.g. "
            "--config=configs/mlm.py:rtd_quickstart, or default_config('replaced_token')."
        ),
    }

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ReplacedTokenObjective:
        """Builds model and loss without text or tokenizer, for shapes alone."""
        spec = _spec(config, encoder, (config.task.unit,))
        return ReplacedTokenObjective(spec, made_up_vocabulary(encoder), config.task.z_loss)

    def create(self, config: Config, initial: Initial) -> tuple[ReplacedTokenTask, dict[str, HostArray]]:
        """Opens the source and builds the task of a new run.

        Raises UserError as `masked_text.open_text`.
        """
        discriminator = discriminator_family(initial.encoder.family)
        family = discriminator or initial.encoder.family
        initial = dataclasses.replace(initial, encoder=dataclasses.replace(initial.encoder, family=family))
        layers = generator_layers(config.task.generator_depth, initial.encoder)
        params = _kept(initial, layers)
        parts = [name for name in ("detector", "generator") if any(path.startswith(name) for path in params)]
        notes = (
            f"generator: {layers} of the encoder's {initial.encoder.num_layers} layers; "
            f"loaded beside the encoder: {', '.join(parts) or 'nothing'}",
            "masked tokens are all replaced by the mask token",
        )
        if not discriminator:
            notes += (
                f"NOTE: transformers has no class for the discriminator of a {family} encoder: fine-tune from it here "
                "(--config.model.init=run:WORKDIR); jaxfm.export cannot write it",
            )
        encoder, text = open_text(config, initial, config.task.masking, notes)
        text = text.numbered()
        objective = ReplacedTokenObjective(_spec(config, encoder, text.units), text.vocabulary, config.task.z_loss)
        return ReplacedTokenTask(objective, text), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Opens the source as `create` does and says what a person should know of it before training."""
        return check_text(config, initial)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task, which once was an objective of masked LM."""
        return values["task"] == NAME or (values["task"] == MASKED_LM and values.get("objective") == "rtd")

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ReplacedTokenSpec:
        """Builds the spec of a trained run."""
        return build_spec(ReplacedTokenSpec, SpecValues(values.path, older_spec(values, config)))

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the config of an older run in today's keys; None: it is of another task."""
        if values.get("task") != MASKED_LM or values.get("objective") != "rtd":
            return None
        return upgraded(values, ReplacedTokenConfig, {key: new for key, new in self.moved.items() if " " not in new})

    def reopen(
        self, workdir: pathlib.Path, spec: ReplacedTokenSpec, config: Config, source: str, split: str
    ) -> ReplacedTokenTask:
        """Builds the task of a trained run over one split of (other) text, for evaluation."""
        text = reopen_text(workdir, spec, config, source, split).numbered()
        return ReplacedTokenTask(ReplacedTokenObjective(spec, text.vocabulary), text)

    def predictor(self, workdir: pathlib.Path, spec: ReplacedTokenSpec) -> ReplacedTokenPredictor:
        """Returns what finds replaced tokens."""
        return ReplacedTokenPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR))


def _spec(config: Config, encoder: EncoderConfig, units: tuple[str, ...]) -> ReplacedTokenSpec:
    return ReplacedTokenSpec(
        encoder=encoder,
        masking=config.task.masking,
        ratios=config.task.ratios,
        units=units,
        row_length=config.data.row_length,
        generator_layers=generator_layers(config.task.generator_depth, encoder),
        discriminator_weight=config.task.discriminator_weight,
        ratio_starts=config.task.ratio_starts,
    )


def _kept(initial: Initial, layers: int) -> dict[str, HostArray]:
    """Returns the loaded parameters that are used: the encoder, and detector and generator where they fit."""
    used = ["encoder/", "detector/"]
    depths = {len(value) for name, value in initial.params.items() if name.startswith(f"{_GENERATOR}layers/")}
    if depths == {layers}:
        used.append(_GENERATOR)
    return {name: value for name, value in initial.params.items() if name.startswith(tuple(used))}
