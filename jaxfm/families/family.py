"""What a family is: how one model_type of transformers maps onto the encoder here."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig
from jaxfm.core.towers import TowersConfig
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.tensors import WORD_EMBEDDING, Tensor


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that checkpoints of a family may carry.

    Attributes:
      suffix: of transformers' class name ("ForTokenClassification"); "" where no class has this head alone.
      tensors: our parameter -> their tensor, full names on both sides. It may name biases that a config leaves out.
      tied: further tensors that a checkpoint may carry -> our parameter that they must equal.
      unread: tensors that transformers' class has and does not compute with -> our parameter whose values they get.
      untied: the head of encoders without `tied_decoder`, where it has other tensors.
      causal_suffix: of the class over an encoder of causal sight; "": the same class.
      pooling_key: key of config.json that says how a text becomes one vector; "" where the class always reads the first
        token.
      poolings: our name of that -> theirs.
      unnamed_classes: outputs of the last layer after the classes that have names ("no object" of detectors).
    """

    suffix: str
    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict)
    untied: "Head | None" = None
    causal_suffix: str = ""
    pooling_key: str = ""
    poolings: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"cls": "cls", "mean": "mean"})
    unnamed_classes: int = 0


def vocabulary_head(
    transform: Mapping[str, Tensor],
    weight: str,
    bias: str,
    *,
    copy: str = "",
    suffix: str = "ForMaskedLM",
    causal_suffix: str = "",
) -> Head:
    """Returns a masked-LM head, for word embeddings that score the vocabulary and for a separate table.

    Args:
      transform: tensors of the transform.
      weight: name of the table, which is the word embedding where that is tied.
      bias: name of the bias; that of a tied table where there are two.
      copy: name of the bias that an untied table has beside `bias`, which then nothing reads.
      suffix: of transformers' class.
      causal_suffix: of its class that predicts the next token, where that is another one.
    """
    tied = {weight: WORD_EMBEDDING} | ({copy: "decoder/bias"} if copy else {})
    own = {"decoder/embedding": Tensor(weight), "decoder/bias": Tensor(copy or bias)}
    unread = {bias: "decoder/bias"} if copy else {}
    untied = Head(suffix, {**transform, **own}, unread=unread, causal_suffix=causal_suffix)
    tensors = {**transform, "decoder/bias": Tensor(bias)}
    return Head(suffix, tensors, tied=tied, untied=untied, causal_suffix=causal_suffix)


@dataclasses.dataclass(frozen=True)
class Family:
    """All that jaxfm knows of one model_type.

    Attributes:
      name: the model_type.
      architecture: transformers' class name up to the suffix of its head: "Bert".
      prefix: of the encoder's tensors in checkpoints with a head ("bert."); bare encoders have no prefix.
      encoder: our parameter, relative to "encoder/" -> their tensor, relative to `prefix`. It may name biases that a
        config leaves out.
      heads: kind of head (`families.models.KINDS`) -> its tensors.
      known_extras: tensors that checkpoints may carry and nothing here uses: full names, or patterns (fnmatch).
      bare_suffix: of the encoder's own class.
      sights: those of `core.encoder_config.SIGHTS` that its classes compute.
      causal_of: family of the same parameters, but for their names, whose tokens see both sides; "": there is none.
      renamed: part of a tensor's name in older checkpoints -> that part today.
      read_config: from the checked values of config.json to the encoder's shape; raises UserError for values with which
        transformers computes another function.
      write_config: the inverse: all values of config.json that say something of the encoder.
      presets: published shapes by name.
      discriminator_of: families of the same parameters and function whose own classes lack the head "replaced_tokens":
        their encoders are trained for it, and written, as this family.
      detector_of: families of the same parameters whose own classes find no objects: with detection tokens beside their
        patches, their encoders are trained for it, and written, as this family.
    """

    name: str
    architecture: str
    prefix: str
    encoder: Mapping[str, Tensor]
    heads: Mapping[str, Head]
    known_extras: tuple[str, ...]
    read_config: Callable[[ConfigValues], EncoderConfig]
    write_config: Callable[[EncoderConfig], dict[str, Any]]
    presets: Mapping[str, EncoderConfig] = dataclasses.field(default_factory=dict)
    discriminator_of: tuple[str, ...] = ()
    detector_of: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bare_suffix: str = "Model"
    sights: tuple[str, ...] = (FULL,)
    causal_of: str = ""

    @property
    def first_tensor(self) -> str:
        """The name, relative to `prefix`, of what every checkpoint of the family begins with: words or patches."""
        word = self.encoder.get("embeddings/word/embedding") or self.encoder["embeddings/kernel"]
        return word.name

    def encoder_tensors(self, *, bare: bool = False) -> dict[str, Tensor]:
        """Returns "encoder/..." -> tensor under full names; `bare`: as checkpoints of the encoder alone have them."""
        prefix = "" if bare else self.prefix
        return {f"encoder/{ours}": tensor.under(prefix) for ours, tensor in self.encoder.items()}

    def head(self, kind: str, encoder: EncoderConfig) -> Head:
        """Returns the head of that kind over an encoder."""
        head = self.heads[kind]
        return head if encoder.tied_decoder or head.untied is None else head.untied

    def head_tensors(self, kind: str, encoder: EncoderConfig, *, bare: bool = False) -> dict[str, Tensor]:
        """Returns our parameter -> tensor of the head of that kind; `bare` as in `encoder_tensors`."""
        tensors = self.head(kind, encoder).tensors
        return {ours: tensor.without(self.prefix) if bare else tensor for ours, tensor in tensors.items()}

    def class_name(self, kind: str, sight: str = FULL) -> str:
        """Returns transformers' class with a head of that kind over an encoder of that sight; "": the encoder alone."""
        if not kind:
            return self.architecture + self.bare_suffix
        head = self.heads[kind]
        return self.architecture + ((head.causal_suffix if sight == CAUSAL else "") or head.suffix)

    def kind_of(self, class_name: str) -> str:
        """Returns the kind of head of transformers' class of that name; "" where no head here is of it."""
        kinds = (
            kind
            for kind, head in self.heads.items()
            if head.suffix and class_name in (self.class_name(kind), self.class_name(kind, CAUSAL))
        )
        return next(kinds, "")


@dataclasses.dataclass(frozen=True)
class TowerPair:
    """All that jaxfm knows of one model_type whose checkpoints have an encoder of images and one of texts.

    Attributes:
      name: the model_type.
      architecture: transformers' class of both.
      image: family of the image tower, whose tensors have its prefix.
      text: family of the text tower, likewise.
      tensors: our parameter beside both encoders, as `models.two_towers.TwoTowers` has it -> its tensor.
      known_extras: tensors that checkpoints may carry and nothing here uses.
      towers: what two towers are that are made as this class has it, of encoders of both families.
      read_config: from the checked values of config.json to both shapes; raises UserError as that of `Family` does.
      write_config: the inverse, but for the numbers of special tokens, which are the tokenizer's.
      end_token: whether config.json says which token's vector is a text's: the one that the tokenizer puts last.
      masks_padding: whether texts are padded with a mask.
    """

    name: str
    architecture: str
    image: Family
    text: Family
    tensors: Mapping[str, Tensor]
    known_extras: tuple[str, ...]
    towers: Callable[[EncoderConfig, EncoderConfig], TowersConfig]
    read_config: Callable[[ConfigValues], TowersConfig]
    write_config: Callable[[TowersConfig], dict[str, Any]]
    end_token: bool
    masks_padding: bool
