"""The task `late_interaction`: a source of texts that belong together to an objective over MaxSim."""

# M groups, K texts a group

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.packing import most_together
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.schema import replaced
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.late_interaction.layout import check_expansion, skipped_ids, taken_over, with_defaults, with_markers
from jaxfm.tasks.late_interaction.objective import LateInteractionObjective
from jaxfm.tasks.late_interaction.predictor import LateInteractionPredictor
from jaxfm.tasks.late_interaction.scorer import LateInteractionScorer
from jaxfm.tasks.late_interaction.spec import NAME, LateInteractionConfig, LateInteractionSpec
from jaxfm.tasks.text_groups.checks import check_groups
from jaxfm.tasks.text_groups.encoding import TextReading
from jaxfm.tasks.text_groups.group_texts import TokenizedGroups, evaluated_groups, tokenize_groups
from jaxfm.tasks.text_groups.groups_task import GroupsTask, packed_training
from jaxfm.tasks.text_groups.scorer import METRIC
from jaxfm.tasks.text_groups.similarity_loss import similarity_loss
from jaxfm.tasks.text_groups.sources import check_training, evaluated_note, has_projection, read_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OPEN = (
    "dimension",
    "query_prompt",
    "document_prompt",
    "query_length",
    "document_length",
    "query_expansion",
    "skipped_tokens",
)
_EXPANDED = {
    "none": "",
    "attended": ", filled up with mask tokens",
    "unattended": ", filled up with mask tokens that its own do not see",
}
_SOME_TEXT = 16  # tokens, where no data says how long texts are


class LateInteractionDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = LateInteractionConfig
    defaults: Mapping[str, Any] = {**DEFAULTS, "train.batch_examples": 32, "eval.first": True}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> LateInteractionObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = with_defaults(assumed_shapes(config))
        texts = 2 + (config.task.negatives if config.task.kind == "teacher" else 0)
        groups = max(config.data.row_length // (_SOME_TEXT * texts), 1) if config.data.packed else 1
        return LateInteractionObjective(_spec(config, encoder, texts=texts, groups=groups), similarity_loss(config))

    def create(self, config: Config, initial: Initial) -> tuple[GroupsTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, a loss that the kind of data is not for, a single pair of training.
        """
        loss = similarity_loss(config)
        config, layout_notes = taken_over(config, initial)
        tokenizer = with_markers(open_tokenizer(initial), initial)
        check_expansion(config, tokenizer)
        skipped, skipped_note = skipped_ids(config, tokenizer)
        read = read_source(config, None, tokenizer)
        groups = {split: found.groups for split, found in read.items()}
        check_training(config.data.source, config.task.kind, groups["train"], loss.function)
        spec, tokenized = _shaped(config, initial.encoder, tokenizer, groups["train"])
        spec = dataclasses.replace(spec, skipped=skipped)
        spec, train, notes = packed_training(spec, groups["train"], tokenized, tokenizer, config.seed, loss.function)
        evaluated = {
            split: evaluated_groups(spec, tokenizer, found) for split, found in groups.items() if split != "train"
        }
        metric = METRIC[config.task.kind] if config.eval.metric == AUTO_METRIC else config.eval.metric
        used = ("encoder/", *(("projection/",) if has_projection(initial, spec.dimension) else ()))
        said = (
            *initial.notes,
            *initial.left_over(used),
            *layout_notes,
            f"vectors: {spec.dimension} numbers a token; MaxSim of queries of {spec.query_length} tokens "
            f"({spec.query_prompt!r}{_EXPANDED[spec.query_expansion]}) and documents of {spec.document_length} "
            f"({spec.document_prompt!r}); loss {loss.function}",
            *([skipped_note] if skipped_note else ()),
            *(found.note for found in read.values()),
            *notes,
            *(evaluated_note(split, found, spec) for split, found in evaluated.items()),
        )
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {
            "data.row_length": spec.row_length,
            "eval.metric": metric,
            **{f"task.{name}": getattr(config.task, name) for name in _OPEN},
        }
        objective = LateInteractionObjective(spec, loss)
        return GroupsTask(
            NAME, LateInteractionScorer, objective, tokenizer, groups, train, evaluated, said, chosen
        ), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        config, _ = taken_over(config, initial)
        tokenizer = with_markers(open_tokenizer(initial), initial)
        check_expansion(config, tokenizer)
        skipped_ids(config, tokenizer)
        read = read_source(config, None, tokenizer)
        groups = {split: found.groups for split, found in read.items()}
        spec, _ = _shaped(config, initial.encoder, tokenizer, groups["train"])
        prompts = (spec.query_prompt, spec.document_prompt)
        return check_groups(groups, tokenizer, prompts, spec.document_length, initial.encoder.max_positions)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> LateInteractionSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(LateInteractionSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: there was no such task when configs were of version 1."""
        del values
        return None

    def reopen(
        self, workdir: pathlib.Path, spec: LateInteractionSpec, config: Config, source: str, split: str
    ) -> GroupsTask:
        """Builds the task of a trained run over one split of (other) data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        config = replaced(config, {"data.source": source})
        ((split, found),) = read_source(config, (split,), tokenizer).items()
        groups = {split: found.groups}
        evaluated = {split: evaluated_groups(spec, tokenizer, groups[split])}
        notes = (found.note, evaluated_note(split, evaluated[split], spec))
        objective = LateInteractionObjective(spec, similarity_loss(config))
        return GroupsTask(NAME, LateInteractionScorer, objective, tokenizer, groups, None, evaluated, notes)

    def predictor(self, workdir: pathlib.Path, spec: LateInteractionSpec) -> LateInteractionPredictor:
        """Returns what compares texts."""
        return LateInteractionPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR))


def _shaped(
    config: Config, encoder: EncoderConfig, tokenizer: "PreTrainedTokenizerFast", groups: Sequence[TextGroup]
) -> tuple[LateInteractionSpec, TokenizedGroups]:
    """Returns the spec of the training groups, whose lengths decide that of rows, and their tokens."""
    texts = max(len(group.others) for group in groups) + 1
    task = config.task
    lengths = [min(length, encoder.max_positions) for length in (task.query_length, task.document_length)]
    query = TextReading(task.query_prompt, lengths[0], task.query_expansion)
    tokenized = tokenize_groups(tokenizer, groups, (query, TextReading(task.document_prompt, lengths[1])))
    config = with_row_length(config, tokenized.lengths, lengths[0] + lengths[1] * (texts - 1))
    if task.query_expansion != "none" and config.data.row_length < 2 * lengths[0]:
        raise UserError(
            f"config.data.row_length: rows of {config.data.row_length} tokens do not hold a document beside a query "
            f"filled up to config.task.query_length={lengths[0]}. Give {2 * lengths[0]} or more."
        )
    together = np.minimum(tokenized.lengths, config.data.row_length)
    count = most_together(together, config.data.row_length) if config.data.packed else 1
    return _spec(config, encoder, texts=texts, groups=count), tokenized


def _spec(config: Config, encoder: EncoderConfig, *, texts: int, groups: int) -> LateInteractionSpec:
    task, row_length = config.task, config.data.row_length
    if task.query_length > encoder.max_positions:
        raise UserError(
            f"config.task.query_length: {task.query_length} tokens do not fit the encoder ({encoder.max_positions})."
        )
    _check_window(config, encoder)
    return LateInteractionSpec(
        kind=task.kind,
        encoder=encoder,
        dimension=task.dimension,
        query_prompt=task.query_prompt,
        document_prompt=task.document_prompt,
        query_length=min(task.query_length, row_length),
        document_length=min(task.document_length, encoder.max_positions, row_length),
        row_length=row_length,
        texts=texts,
        groups=groups,
        positives=0,
        learned_scale=1.0 / task.loss.temperature if task.loss.learned_temperature else 0.0,
        query_expansion=task.query_expansion,
    )


def _check_window(config: Config, encoder: EncoderConfig) -> None:
    """Raises UserError where mask tokens that see a query's own tokens alone would be too far from all of them."""
    radius = encoder.local_window // 2 if encoder.global_every > 1 else 0
    if config.task.query_expansion == "unattended" and radius and config.task.query_length > radius:
        raise UserError(
            f"config.task.query_length: layers of this encoder see {radius} tokens to each side, so that mask tokens "
            f"after a short query, filled up to {config.task.query_length}, see nothing (query_expansion=unattended). "
            f"Give at most {radius}, or query_expansion=attended."
        )
