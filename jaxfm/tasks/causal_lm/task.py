"""The task `causal_lm`: a corpus of text to an objective, rows and scores."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.families.registry import with_sight
from jaxfm.tasks.causal_lm.objective import CausalLMObjective
from jaxfm.tasks.causal_lm.predictor import CausalLMPredictor
from jaxfm.tasks.causal_lm.scorer import DIRECTIONS, CausalLMScorer
from jaxfm.tasks.causal_lm.spec import NAME, CausalLMConfig, CausalLMSpec
from jaxfm.tasks.causal_lm.text import CausalText, check_reads_causally, open_causal_text, reopen_causal_text
from jaxfm.tasks.masked_checks import check_text
from jaxfm.tasks.running_text import WHOLE_MODEL, head_note


@dataclasses.dataclass(frozen=True)
class CausalLMTask:
    """A causal language model over packed text (implements jaxfm.core.task.Task)."""

    objective: CausalLMObjective
    text: CausalText

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

    def scorer(self, split: str) -> CausalLMScorer:
        """Returns what scores a held-out split."""
        return CausalLMScorer(self.text, split)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json, the tokenizer's files and the token counts."""
        self.text.save(workdir)
        write_spec(workdir, NAME, self.objective.spec)


class CausalLMDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = CausalLMConfig
    # Weights of any sight are taken, and trained causally.
    defaults: Mapping[str, Any] = types.MappingProxyType({"model.sight": CAUSAL})
    moved: Mapping[str, str] = types.MappingProxyType({})

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> CausalLMObjective:
        """Builds model and loss without text or tokenizer, for shapes alone."""
        check_reads_causally(config, encoder)
        spec = CausalLMSpec(with_sight(encoder, CAUSAL), config.data.row_length)
        return CausalLMObjective(spec, config.task.z_loss, config.task.logits_chunk)

    def create(self, config: Config, initial: Initial) -> tuple[CausalLMTask, dict[str, HostArray]]:
        """Opens the source (prepares it first where it is plain text) and builds the task of a new run.

        Raises UserError as `open_causal_text`.
        """
        encoder, text = open_causal_text(config, initial, head_note(initial))
        spec = CausalLMSpec(encoder, config.data.row_length)
        objective = CausalLMObjective(spec, config.task.z_loss, config.task.logits_chunk)
        params = {name: value for name, value in initial.params.items() if name.startswith(WHOLE_MODEL)}
        return CausalLMTask(objective, text), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Opens the source as `create` does and says what a person should know of it before training."""
        return check_text(config, initial)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> CausalLMSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(CausalLMSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: version 1 of config.json did not have this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: CausalLMSpec, config: Config, source: str, split: str
    ) -> CausalLMTask:
        """Builds the task of a trained run over one split of (other) text, for evaluation."""
        text = reopen_causal_text(workdir, spec.encoder, config, source, split)
        return CausalLMTask(CausalLMObjective(spec, logits_chunk=config.task.logits_chunk), text)

    def predictor(self, workdir: pathlib.Path, spec: CausalLMSpec) -> CausalLMPredictor:
        """Returns what scores texts."""
        return CausalLMPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR))
