"""The task `embedding`: a source of texts that belong together to an objective, rows and scores."""

# M groups, K texts a group

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import AUTO, AUTO_METRIC, Config, DataConfig
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.packing import most_together
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.models.embedder import POOLINGS
from jaxfm.schema import replaced
from jaxfm.tasks.embedding.objective import EmbeddingObjective
from jaxfm.tasks.embedding.predictor import EmbeddingPredictor
from jaxfm.tasks.embedding.scorer import EmbeddingScorer
from jaxfm.tasks.embedding.spec import NAME, EmbeddingConfig, EmbeddingSpec
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.pooling import check_pooling
from jaxfm.tasks.text_groups.checks import check_groups
from jaxfm.tasks.text_groups.config import SimilarityLossConfig, prompt_or
from jaxfm.tasks.text_groups.encoding import DOCUMENT, QUERY, TextReading
from jaxfm.tasks.text_groups.group_texts import TokenizedGroups, evaluated_groups, tokenize_groups
from jaxfm.tasks.text_groups.groups_task import GroupsTask, packed_training
from jaxfm.tasks.text_groups.scorer import METRIC
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss, similarity_loss
from jaxfm.tasks.text_groups.sources import check_training, evaluated_note, has_projection, read_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SOME_TEXT = 16  # tokens, where no data says how long texts are
_TAKEN_OVER = ("dimension", "query_prompt", "document_prompt")  # where the config leaves them open
_USUAL_POOLING = "mean"  # Reimers and Gurevych 2019, table 6


class EmbeddingDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = EmbeddingConfig
    # Batches of 64 pairs have 63 negatives for each; with 16 there are too few to learn from. Encoders make vectors
    # before they are trained to: what training gains is to be seen.
    defaults: Mapping[str, Any] = {**DEFAULTS, "train.batch_examples": 64, "eval.first": True}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> EmbeddingObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = _without_layout(assumed_shapes(config))
        texts = 2 + (config.task.negatives if config.task.kind == "teacher" else 0)
        groups = max(config.data.row_length // (_SOME_TEXT * texts), 1) if config.data.packed else 1
        spec = _spec(config, encoder, texts=texts, groups=groups, positives=0)
        return EmbeddingObjective(spec, similarity_loss(config))

    def create(self, config: Config, initial: Initial) -> tuple[GroupsTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, a loss that the kind of data is not for, a single pair of training.
        """
        loss = similarity_loss(config)
        config, layout_notes = taken_over(config, initial)
        tokenizer = open_tokenizer(initial)
        read = read_source(config, None, tokenizer)
        groups = {split: found.groups for split, found in read.items()}
        check_training(config.data.source, config.task.kind, groups["train"], loss.function)
        spec, tokenized = _shaped(config, initial, tokenizer, groups["train"])
        spec, train, notes = packed_training(spec, groups["train"], tokenized, tokenizer, config.seed, loss.function)
        evaluated = {
            split: evaluated_groups(spec, tokenizer, found) for split, found in groups.items() if split != "train"
        }
        metric = METRIC[config.task.kind] if config.eval.metric == AUTO_METRIC else config.eval.metric
        used = ("encoder/", *(("projection/",) if has_projection(initial, spec.projected) else ()))
        said = (
            *initial.notes,
            *initial.left_over(used),
            *layout_notes,
            _vector_note(spec, loss),
            *(found.note for found in read.values()),
            *notes,
            *(evaluated_note(split, found, spec) for split, found in evaluated.items()),
        )
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {
            "data.row_length": spec.row_length,
            "eval.metric": metric,
            **{f"task.{name}": getattr(config.task, name) for name in _TAKEN_OVER},
            "task.pooling": spec.pooling,
        }
        task = GroupsTask(
            NAME, EmbeddingScorer, EmbeddingObjective(spec, loss), tokenizer, groups, train, evaluated, said, chosen
        )
        return task, params

    def config_of_pairs(self, config: Config, source: str, *, pooling: str, window: int) -> Config:
        """See core.few_labels.LearnsFromPairs.

        Cosines are learned as they are (Tunstall et al. 2022). Nothing is held out and
        nothing chosen: the last weights are taken.
        """
        task = EmbeddingConfig(
            kind="scored",
            pooling=pooling,
            query_prompt="",
            document_prompt="",
            loss=SimilarityLossConfig(function="cosine"),
        )
        columns = DataConfig(text_column="text", pair_column="pair", label_column="score")
        data = dataclasses.replace(
            columns,
            source=source,
            holdout=0.0,
            cache=config.data.cache,
            packed=config.data.packed,
            row_length=AUTO,
            window=window,
        )
        evaluated = dataclasses.replace(config.eval, metric=AUTO_METRIC, first=False, select="last", patience=0)
        return dataclasses.replace(config, task=task, data=data, eval=evaluated)

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        config, _ = taken_over(config, initial)
        tokenizer = open_tokenizer(initial)
        read = read_source(config, None, tokenizer)
        groups = {split: found.groups for split, found in read.items()}
        spec, _ = _shaped(config, initial, tokenizer, groups["train"])
        prompts = (spec.query_prompt, spec.document_prompt)
        return check_groups(groups, tokenizer, prompts, spec.window, initial.encoder.max_positions)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> EmbeddingSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(EmbeddingSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: there were no vectors when configs were of version 1."""
        del values
        return None

    def reopen(self, workdir: pathlib.Path, spec: EmbeddingSpec, config: Config, source: str, split: str) -> GroupsTask:
        """Builds the task of a trained run over one split of (other) data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        config = replaced(config, {"data.source": source})
        ((split, found),) = read_source(config, (split,), tokenizer).items()
        groups = {split: found.groups}
        evaluated = {split: evaluated_groups(spec, tokenizer, groups[split])}
        notes = (found.note, evaluated_note(split, evaluated[split], spec))
        objective = EmbeddingObjective(spec, similarity_loss(config))
        return GroupsTask(NAME, EmbeddingScorer, objective, tokenizer, groups, None, evaluated, notes)

    def predictor(self, workdir: pathlib.Path, spec: EmbeddingSpec) -> EmbeddingPredictor:
        """Returns what makes vectors of texts."""
        return EmbeddingPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR), read_calibration(workdir))


def taken_over(config: Config, initial: Initial) -> tuple[Config, tuple[str, ...]]:
    """Returns the config with what the first weights' files say of their vectors, where it says nothing itself.

    Raises UserError where they say what is not computed here, and the config does not name another pooling.
    """
    layout, task = initial.sentence, config.task
    if layout is None or (layout.unread and task.pooling != "auto"):
        return _without_layout(config), ()
    if layout.unread:
        raise UserError(
            f"config.task.pooling: is 'auto', but the files of {config.model.init!r} (modules.json) make vectors by "
            f"{' and '.join(layout.unread)}, which is not computed here. To train vectors of another kind from these "
            f"weights, name one: {', '.join(POOLINGS)}."
        )
    projection = initial.params.get("projection/kernel")
    values: dict[str, Any] = {
        "task.pooling": layout.pooling if task.pooling == "auto" else task.pooling,
        "task.normalize": task.normalize and layout.normalize,
        "task.dimension": task.dimension or (0 if projection is None else projection.shape[-1]),
        "task.query_prompt": prompt_or(task.query_prompt, layout.prompts.get(QUERY, "")),
        "task.document_prompt": prompt_or(task.document_prompt, layout.prompts.get(DOCUMENT, "")),
    }
    return replaced(config, values), (f"vectors: as modules.json of {config.model.init} says",)


def _without_layout(config: Config) -> Config:
    """Returns the config with no prompt where it leaves one open."""
    prompts = {
        f"task.{name}": prompt_or(getattr(config.task, name), "") for name in ("query_prompt", "document_prompt")
    }
    return replaced(config, prompts)


def _shaped(
    config: Config, initial: Initial, tokenizer: "PreTrainedTokenizerFast", groups: Sequence[TextGroup]
) -> tuple[EmbeddingSpec, TokenizedGroups]:
    """Returns the spec of the training groups, whose lengths decide that of rows, and their tokens."""
    texts = max(len(group.others) for group in groups) + 1
    encoder, limit = initial.encoder, initial.sentence.max_length if initial.sentence else 0
    longest = config.data.window or min(limit or encoder.max_positions, encoder.max_positions)
    if config.data.row_length != AUTO:
        longest = window_length(config.data, encoder.max_positions)
    prompts = (config.task.query_prompt, config.task.document_prompt)
    tokenized = tokenize_groups(tokenizer, groups, (TextReading(prompts[0], longest), TextReading(prompts[1], longest)))
    config = with_row_length(config, tokenized.lengths, encoder.max_positions * texts)
    if not config.data.window and longest < config.data.row_length:
        config = replaced(config, {"data.window": longest})
    together = np.minimum(tokenized.lengths, config.data.row_length)
    count = most_together(together, config.data.row_length) if config.data.packed else 1
    return _spec(config, encoder, texts=texts, groups=count, positives=0), tokenized


def _spec(config: Config, encoder: EncoderConfig, *, texts: int, groups: int, positives: int) -> EmbeddingSpec:
    task = config.task
    for size in task.matryoshka:
        if not 0 < size <= (task.dimension or encoder.hidden_size):
            raise UserError(
                f"config.task.matryoshka: {size} is not from 1 to the {task.dimension or encoder.hidden_size} numbers "
                "of a vector."
            )
    pooling = _USUAL_POOLING if task.pooling == "auto" else task.pooling
    check_pooling(encoder, pooling)
    return EmbeddingSpec(
        kind=task.kind,
        encoder=encoder,
        pooling=pooling,
        normalize=task.normalize,
        projected=task.dimension,
        query_prompt=task.query_prompt,
        document_prompt=task.document_prompt,
        row_length=config.data.row_length,
        window=window_length(config.data, encoder.max_positions),
        texts=texts,
        groups=groups,
        positives=positives,
        learned_scale=1.0 / task.loss.temperature if task.loss.learned_temperature else 0.0,
        matryoshka=task.matryoshka,
    )


def _vector_note(spec: EmbeddingSpec, loss: SimilarityLoss) -> str:
    prompts = "".join(
        f", {name} prompt {prompt!r}"
        for name, prompt in (("query", spec.query_prompt), ("document", spec.document_prompt))
        if prompt
    )
    return (
        f"vectors: {spec.dimension} numbers, pooling {spec.pooling}, {spec.similarity}{prompts}; loss {loss.function}"
    )
