"""Changes of the words of training rows, in the step: word dropout, and substitutes by a frozen masked LM.

A share of the words is hidden from the model (Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods",
section 3), or replaced by draws of a masked LM that reads the row with them masked (Kobayashi 2018, arXiv 1805.06201,
without its conditioning on the target). What is drawn depends on the seed, the step and the row's tokens alone: a run
resumes exactly, and is the same on every mesh and for any number of micro-batches. Rows are changed before any
objective sees them: teachers and early heads see what the model sees. Nothing that scores a model knows of this.
"""

# B batch, T tokens, P places a row

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from jaxfm.augment_config import UNKNOWN, TextAugmentConfig
from jaxfm.config import Config
from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import FULL
from jaxfm.core.objective import Augmentable, LossContext, Objective
from jaxfm.data.text.mask_vocabulary import MaskVocabulary, word_pieces
from jaxfm.data.text.masking import max_predictions
from jaxfm.data.text.word_changes import choose_words, draw_pieces, row_keys
from jaxfm.errors import UserError
from jaxfm.models.heads import MaskedLM
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.masked_predictions import predict
from jaxfm.training import distillation
from jaxfm.training.augmentation_checks import KEY, check
from jaxfm.training.loading import put
from jaxfm.training.mixup import is_on
from jaxfm.training.paths import flat, nested
from jaxfm.training.teachers import MASKED_LM_KEY, KnownTeacher, Teacher, check_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FindTokenizer = Callable[[], "PreTrainedTokenizerFast | None"]
_AUGMENT = 0x61756778
"""Tells these draws from others of a step's key."""
_UNIT = "whole_word"


class Constants(NamedTuple):
    """What a step of changed rows reads and never changes.

    Attributes:
      masked_lm: parameters of the frozen masked LM; () for none.
      inner: what the objective reads (`LossContext.constants`).
    """

    masked_lm: Any
    inner: Any


def text_changes(
    config: Config,
    objective: Objective,
    known: Sequence[KnownTeacher],
    build: Build,
    mesh: Mesh,
    find_tokenizer: FindTokenizer | None,
) -> "TextChanges | None":
    """Returns what changes the words of a run's training rows; None: nothing does.

    Args:
      config: of the run.
      objective: of its task.
      known: what the config names (`initial.find_teachers`).
      build: how the run's own model computes.
      mesh: over which the masked LM's parameters are cut as the run's own.
      find_tokenizer: reads the tokenizer of the rows; None: the step is only compiled, for tokens of any.

    Raises:
      UserError: settings that contradict, a tokenizer without such a token, a masked LM that cannot read the rows.
    """
    task, asked = check(config, objective), config.augment
    if task is None or not (asked.word_dropout or asked.substitute):
        return None
    size = objective.spec.encoder.padded_vocab_size
    vocabulary, dropped_to = MaskVocabulary(0, np.ones(size, bool), np.zeros(size, bool)), 0
    if find_tokenizer is not None:
        vocabulary, dropped_to = _vocabulary(asked, find_tokenizer(), size)
    masked_lm = None
    if asked.substitute:
        (found,) = (each for each in known if each.key == MASKED_LM_KEY)
        masked_lm = _opened(found, objective, build, mesh)
    return TextChanges(asked, task, vocabulary, dropped_to, masked_lm, is_assumed=find_tokenizer is None)


def _vocabulary(
    config: TextAugmentConfig, tokenizer: "PreTrainedTokenizerFast | None", size: int
) -> tuple[MaskVocabulary, int]:
    """Returns what is known of a tokenizer's words, and the token that hidden ones become."""
    assert tokenizer is not None, "objectives of texts alone are Augmentable"
    needed: dict[str, Any] = {}
    if config.word_dropout:
        unknown = config.dropped_to == UNKNOWN
        needed["word_dropout"] = tokenizer.unk_token_id if unknown else tokenizer.mask_token_id
    if config.substitute:
        needed["substitute"] = tokenizer.mask_token_id
    for name, token in needed.items():
        if token is None:
            which = "unknown" if name == "word_dropout" and config.dropped_to == UNKNOWN else "mask"
            other = {"unknown": "mask", "mask": "unknown"}[which]
            advice = f"Try {KEY}.dropped_to={other}." if name == "word_dropout" else "Set 0."
            raise UserError(
                f"{KEY}.{name}: is {getattr(config, name):g}, but the tokenizer has no {which} token. {advice}"
            )
    pieces = word_pieces(tokenizer, size)
    mask = tokenizer.mask_token_id if config.substitute else needed["word_dropout"]
    return MaskVocabulary(int(mask), *pieces), int(needed.get("word_dropout", 0))  # type: ignore[arg-type]


def _opened(known: KnownTeacher, objective: Objective, build: Build, mesh: Mesh) -> Teacher:
    """Returns a masked LM as a step computes it, by its shape alone."""
    encoder = known.encoder
    if encoder.reads_patches or encoder.sight != FULL or encoder.reads_padding:
        raise UserError(f"{MASKED_LM_KEY}: {known.uri!r} is not a masked LM of texts.")
    check_length(MASKED_LM_KEY, known.uri, objective.spec, encoder)
    build = dataclasses.replace(build, remat="none", frozen_layers=0)
    graphdef, abstract = meshes.build_abstract(lambda: MaskedLM(encoder, build, nnx.Rngs(0)), mesh)
    return Teacher(known, None, objective.spec, graphdef, abstract)


@dataclasses.dataclass(frozen=True, eq=False)
class TextChanges:
    """Changes the words of the training rows of each step.

    Attributes:
      config: how far and when.
      objective: of the task.
      vocabulary: which tokens may be changed, and where words start.
      dropped_to: the token that those of hidden words become.
      masked_lm: that substitutes are drawn from.
      is_assumed: the vocabulary only has the shape of the run's; nothing may be trained.
    """

    config: TextAugmentConfig
    objective: Augmentable
    vocabulary: MaskVocabulary
    dropped_to: int
    masked_lm: Teacher | None
    is_assumed: bool = False

    def apply(
        self, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Mapping[str, jax.Array], LossContext]:
        """Returns the batch as the objective is given it at this step, and the context with its own constants."""
        on = is_on(self.config, context.progress)

        def changed() -> jax.Array:
            return self.changed(batch, context)

        tokens_BT = changed() if on is True else lax.cond(on, changed, lambda: batch["tokens"])
        return {**batch, "tokens": tokens_BT}, context._replace(constants=context.constants.inner)

    @jax.named_scope("augmentation")
    def changed(self, batch: Mapping[str, jax.Array], context: LossContext) -> jax.Array:
        """Returns the changed tokens [B, T]."""
        key = context.key if context.step_key is None else context.step_key
        rows_B = row_keys(jax.random.fold_in(key, _AUGMENT), batch["tokens"])
        choice_B, piece_B, dropout_B = jnp.unstack(jax.vmap(lambda row: jax.random.split(row, 3))(rows_B), axis=1)
        tokens_BT = batch["tokens"]
        if self.masked_lm is not None:
            model = self.masked_lm.model(context.constants.masked_lm)
            tokens_BT = self.substituted(model, batch, choice_B, piece_B)
        if not self.config.word_dropout:
            return tokens_BT
        _, labels_BT = choose_words(
            dropout_B,
            tokens_BT,
            batch["segment_ids"],
            self.vocabulary,
            self.config.word_dropout,
            limit=tokens_BT.shape[1],
        )
        return jnp.where(labels_BT >= 0, self.dropped_to, tokens_BT)

    def substituted(
        self, model: Any, batch: Mapping[str, jax.Array], choice_B: jax.Array, piece_B: jax.Array
    ) -> jax.Array:
        """Returns the tokens [B, T] with some words drawn from a masked LM, which sees all of them masked at once.

        The tokens of one word are drawn independently of each other. A word may be drawn that stood there.
        """
        tokens_BT, config = batch["tokens"], self.config
        # What may not be replaced is like padding to the choice alone; the model reads it.
        free_BT = jnp.where(self.objective.fixed_tokens(batch), 0, batch["segment_ids"])
        share, length = config.substitute, tokens_BT.shape[1]
        limit = max_predictions(_UNIT, share, length)
        masked_BT, labels_BT = choose_words(choice_B, tokens_BT, free_BT, self.vocabulary, share, limit)
        with jax.named_scope("substitutes"):
            found = predict(model, {**batch, "tokens": masked_BT, "labels": labels_BT}, limit)
        drawn_BP = draw_pieces(piece_B, found["logits"], found["target"], self.vocabulary, self.config.temperature)
        rows_B1 = jnp.arange(len(tokens_BT))[:, None]
        old_BP = jnp.take_along_axis(tokens_BT, found["place"], axis=1)
        return tokens_BT.at[rows_B1, found["place"]].set(jnp.where(found["target"] >= 0, drawn_BP, old_BP))

    def abstract_constants(self, inner: Any) -> Constants:
        """Returns the shapes and shardings of what a step reads beside its batch."""
        return Constants(() if self.masked_lm is None else self.masked_lm.abstract, inner)

    def load(self, inner: Any) -> Constants:
        """Returns what a step reads beside its batch: the masked LM's parameters are read now.

        Raises UserError for weights that are not there, or that are not a masked LM's.
        """
        assert not self.is_assumed, "make_session was given no tokenizer"
        if self.masked_lm is None:
            return Constants((), inner)
        params, shapes = self.masked_lm.known.weights().params, flat(self.masked_lm.abstract)
        lacking = [path for path in shapes if path not in params or params[path].shape != shapes[path].shape]
        if lacking:
            raise UserError(
                f"{MASKED_LM_KEY}: {self.masked_lm.known.uri!r} is not a masked LM: it lacks {', '.join(lacking[:3])}. "
                "Name a run that has learned to predict masked words (jaxfm train mlm), or such weights."
            )
        return Constants(nested({path: put(params[path], shape) for path, shape in shapes.items()}), inner)


def apply(
    changes: TextChanges | None, batch: Mapping[str, jax.Array], context: LossContext
) -> tuple[Mapping[str, jax.Array], LossContext]:
    """Returns the batch and the context that an objective is given at a step."""
    return (batch, context) if changes is None else changes.apply(batch, context)


def read_by_steps(changes: TextChanges | None, objective: Objective) -> tuple[Any, BatchSpec]:
    """Returns what the steps of a session read beside the task's batches: abstract constants, fields."""
    constants, more = distillation.read_by_steps(objective)
    return (constants if changes is None else changes.abstract_constants(constants)), more


def notes(changes: TextChanges | None) -> tuple[str, ...]:
    """Returns lines for the log about what changes the words of training rows."""
    if changes is None:
        return ()
    config, words = changes.config, changes.vocabulary.marks_words
    unmarked = "" if words else ", where each token is a word, as the tokenizer does not mark any"
    when = "" if is_on(config, 0.0) is True else f", from {config.start:.0%} to {config.stop:.0%} of the updates"
    return (f"augmentation of training rows{when}: {_described(config, changes.masked_lm)}{unmarked}",)


def _described(config: TextAugmentConfig, masked_lm: Teacher | None) -> str:
    found = []
    if masked_lm is not None:
        size = f"{masked_lm.parameters:,} parameters, temperature {config.temperature:g}"
        found.append(f"{config.substitute:.1%} of words are drawn from {masked_lm.known.uri} ({size})")
    if config.word_dropout:
        found.append(f"{config.word_dropout:.1%} of words become the {config.dropped_to} token")
    return "; ".join(found)
