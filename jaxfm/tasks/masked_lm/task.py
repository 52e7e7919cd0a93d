"""The task `masked_lm`: a corpus of text to an objective, rows and scores."""

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
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.tasks.masked_checks import check_text
from jaxfm.tasks.masked_lm.causal_first import CausalFirstObjective
from jaxfm.tasks.masked_lm.objective import MaskedLMObjective
from jaxfm.tasks.masked_lm.predictor import FillMask
from jaxfm.tasks.masked_lm.scorer import DIRECTIONS, MaskedLMScorer
from jaxfm.tasks.masked_lm.spec import NAME, MaskedLMConfig, MaskedLMSpec
from jaxfm.tasks.masked_text import (
    MOVED_KEYS,
    MaskedText,
    made_up_vocabulary,
    older_spec,
    open_text,
    reopen_text,
)
from jaxfm.tasks.next_tokens import check_causal
from jaxfm.tasks.older_configs import upgraded
from jaxfm.tasks.running_text import WHOLE_MODEL, head_note


@dataclasses.dataclass(frozen=True)
class MaskedLMTask:
    """A masked language model over packed text (implements jaxfm.core.task.Task)."""

    objective: MaskedLMObjective | CausalFirstObjective
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

    def scorer(self, split: str) -> MaskedLMScorer:
        """Returns what scores a held-out split."""
        return MaskedLMScorer(self.text, split)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json, the tokenizer's files and the token counts."""
        self.text.save(workdir)
        write_spec(workdir, NAME, self.objective.spec)


class MaskedLMDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = MaskedLMConfig
    defaults: Mapping[str, Any] = types.MappingProxyType({})
    moved: Mapping[str, str] = {
        **MOVED_KEYS,
        "mask.mask_share": "task.mask_share",
        "mask.random_share": "task.random_share",
        "mask.logits_chunk": "task.logits_chunk",
        "mask.places_at_once": "task.logits_chunk",
    }

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> MaskedLMObjective | CausalFirstObjective:
        """Builds model and loss without text or tokenizer, for shapes alone."""
        return _objective(config, encoder, (config.task.unit,), made_up_vocabulary(encoder))

    def create(self, config: Config, initial: Initial) -> tuple[MaskedLMTask, dict[str, HostArray]]:
        """Opens the source (prepares it first where it is plain text) and builds the task of a new run.

        Raises UserError as `masked_text.open_text`.
        """
        _check_causal_part(config, initial.encoder)
        head = head_note(initial, "masked-LM head")
        encoder, text = open_text(config, initial, config.task.masking, (*head, *_causal_note(config.task)))
        objective = _objective(config, encoder, text.units, text.vocabulary)
        params = {name: value for name, value in initial.params.items() if name.startswith(WHOLE_MODEL)}
        return MaskedLMTask(objective, text), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Opens the source as `create` does and says what a person should know of it before training."""
        return check_text(config, initial)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME and values.get("objective", "mlm") == "mlm"

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> MaskedLMSpec:
        """Builds the spec of a trained run."""
        return build_spec(MaskedLMSpec, SpecValues(values.path, older_spec(values, config)))

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the config of an older run in today's keys; None: it is of another task."""
        if values.get("task") != NAME or values.get("objective", "mlm") != "mlm":
            return None
        return upgraded(values, MaskedLMConfig, self.moved)

    def reopen(
        self, workdir: pathlib.Path, spec: MaskedLMSpec, config: Config, source: str, split: str
    ) -> MaskedLMTask:
        """Builds the task of a trained run over one split of (other) text, for evaluation."""
        text = reopen_text(workdir, spec, config, source, split)
        return MaskedLMTask(MaskedLMObjective(spec, text.vocabulary, logits_chunk=config.task.logits_chunk), text)

    def predictor(self, workdir: pathlib.Path, spec: MaskedLMSpec) -> FillMask:
        """Returns what fills masks in texts."""
        return FillMask(spec, load_tokenizer(workdir / TOKENIZER_DIR))


def _objective(
    config: Config, encoder: EncoderConfig, units: tuple[str, ...], vocabulary: MaskVocabulary
) -> MaskedLMObjective | CausalFirstObjective:
    """Builds model and loss of a run; UserError where its causal part does not go with the rest."""
    task = config.task
    _check_causal_part(config, encoder)
    spec = MaskedLMSpec(
        encoder, task.masking, task.ratios, units, config.data.row_length, ratio_starts=task.ratio_starts
    )
    objective = MaskedLMObjective(spec, vocabulary, task.z_loss, task.logits_chunk)
    return CausalFirstObjective(objective, task.causal_until) if task.causal_until else objective


def _check_causal_part(config: Config, encoder: EncoderConfig) -> None:
    """Raises UserError where a run that begins causally cannot."""
    until = config.task.causal_until
    if not until:
        return
    check_causal(encoder, "config.task.causal_until: set 0")
    if config.distil.teacher:
        raise UserError(
            f"config.task.causal_until: is {until:g}, but a model that learns from a teacher (config.distil.teacher) "
            "predicts masked tokens alone. Set 0, or leave the teacher empty."
        )
    for key, patience in (("eval.patience", config.eval.patience), ("grow.patience", config.grow.patience)):
        if patience:
            raise UserError(
                f"config.{key}: is {patience}, but while next tokens are predicted (task.causal_until={until:g}), "
                "the score of masked tokens need not get better. Set 0."
            )


def _causal_note(task: MaskedLMConfig) -> tuple[str, ...]:
    if not task.causal_until:
        return ()
    return (
        f"the first {task.causal_until:.0%} of the updates predict next tokens, the others masked ones "
        "(config.task.causal_until); the log's `causal` is 1, then 0; held-out text always has masks",
    )
