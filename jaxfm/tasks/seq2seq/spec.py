"""A model that writes texts beside its weights, and its config keys."""

# B batch, T tokens, S segments (examples in a row), M places of a target

import dataclasses

from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import more_fields, text_fields
from jaxfm.decoding_config import BEAM, SAMPLE, Decoding
from jaxfm.errors import UserError
from jaxfm.models.heads import MaskedLM
from jaxfm.schema import field
from jaxfm.tasks.seq2seq.controls import Controls
from jaxfm.tasks.seq2seq.lengths import LengthRule

NAME = "seq2seq"
DIFFUSION, PREFIX = "diffusion", "prefix"
WAYS = (DIFFUSION, PREFIX)
HORIZONS = "horizons"


@dataclasses.dataclass(frozen=True)
class UnmaskingConfig:
    """How masked diffusion fills the places of a target; may be set anew at each prediction."""

    steps: int = field(
        0,
        "passes in which a target is filled, the surest tokens first, after one that finds its length; 0: a pass a "
        "token",
        at_least=0,
        at_most=4096,
    )
    temperature: float = field(
        0.0,
        "tokens are drawn from the probabilities at this temperature; 0: the likeliest is taken",
        at_least=0.0,
        at_most=1e3,
    )
    seed: int = field(0, "of what is drawn: the same seed draws the same texts", at_least=0, at_most=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class TargetDecoding(Decoding):
    """How a prefix language model writes targets: a length that no target has leaves it to the data."""

    max_tokens: int = field(
        4096,
        "tokens of a target at most, its end token counted; no more than the longest target that is learned has",
        at_least=1,
        at_most=1_000_000,
    )


def check_decoding(decoding: TargetDecoding, most: int, root: str) -> None:
    """Checks settings for targets of at most `most` tokens; `root` is what keys begin with in messages.

    Raises:
      UserError: a value out of its range, or more tokens at least than a target can have.
    """
    decoding.check(root)
    if decoding.min_tokens >= most:
        raise UserError(
            f"{root}min_tokens: is {decoding.min_tokens}, but targets have at most {most - 1} tokens before their end. "
            f"At most {most - 1} is possible."
        )


def said_decoding(decoding: TargetDecoding) -> str:
    """Returns how tokens are chosen, in words."""
    rule = f", no {decoding.no_repeat_ngram} tokens twice" if decoding.no_repeat_ngram else ""
    if decoding.method == BEAM:
        stop = f"length penalty {decoding.length_penalty:g}, ends at {decoding.stop}"
        return f"a search over {decoding.beams} texts, {stop}{rule}"
    if decoding.method == SAMPLE:
        return f"drawn at temperature {decoding.temperature:g}, top-p {decoding.top_p:g}, seed {decoding.seed}{rule}"
    return f"the likeliest token each time{rule}"


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig:
    """Sequence to sequence: a source, and the target that is written for it."""

    name: str = field(NAME, "the task", choices=(NAME,))
    way: str = field(
        DIFFUSION,
        "diffusion: masked tokens of the target are predicted, a share drawn anew each time (Nie et al. 2025, LLaDA); "
        "prefix: the next token of the target, which sees the whole source and what is before it",
        choices=WAYS,
    )
    max_target: int = field(
        0,
        "tokens of the longest target that is learned or written; training examples with a longer one are left out, "
        "and counted; 0: as the longest of the training data",
        at_least=0,
    )
    controls: tuple[str, ...] = field(
        (),
        "what is written before the source to say how to write: columns of short texts (a style, keywords), and length "
        "for short, medium or long, computed from the target",
    )
    control_dropout: float = field(
        0.1, "share of the training examples that lack a control, so that none has to be given", at_least=0.0, below=1.0
    )
    context_turns: int = field(6, "dialogues: turns before the one that is written which are its source", at_least=1)
    responder: str = field("", "dialogues: the speaker whose turns are written (SYSTEM); empty: every speaker")
    valid_written: int = field(
        100,
        "targets of the validation split that are written at each evaluation, and scored (BLEU, ROUGE, exact match); "
        "0: none",
        at_least=0,
    )
    test_written: int = field(0, "the same of test, and of jaxfm.evaluate; 0: all", at_least=0)
    logits_chunk: int = field(
        0,
        "target tokens of a row whose scores of the whole vocabulary are in memory at once; the backward pass computes "
        "them again; 0: all of them, and nothing twice",
        at_least=0,
    )
    unmasking: UnmaskingConfig = dataclasses.field(default_factory=UnmaskingConfig)
    decoding: TargetDecoding = dataclasses.field(default_factory=TargetDecoding)


@dataclasses.dataclass(frozen=True)
class Seq2SeqSpec:
    """All that a trained writer is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder, with the sight of its way.
      way: one of WAYS.
      row_length: tokens a packed row.
      window: longest segment in tokens.
      segments: most segments a row, S.
      targets: most target tokens of a training row.
      lengths: places of a target by the length of its source.
      controls: what may be asked of how a target is written.
      unmasking: how diffusion writes unless a person says otherwise.
      decoding: the same of a prefix language model.
    """

    encoder: EncoderConfig
    way: str
    row_length: int
    window: int
    segments: int
    targets: int
    lengths: LengthRule
    controls: Controls
    unmasking: UnmaskingConfig
    decoding: TargetDecoding

    @property
    def has_types(self) -> bool:
        """Whether the tokens of a target have a type of their own."""
        return self.encoder.type_vocab_size > 1

    @property
    def max_source(self) -> int:
        """Tokens of a source that are read: what a window has beside its special tokens and the longest target."""
        return self.window - 2 - self.lengths.most

    def batch_spec(self) -> BatchSpec:
        """Packed text, "labels" of tokens (-1: nothing is predicted), and horizons of prefixes."""
        more = ("labels", *((HORIZONS,) if self.way == PREFIX else ()))
        return {**text_fields(self.row_length, types=self.has_types), **more_fields(self.row_length, more)}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> MaskedLM:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, build, rngs)
