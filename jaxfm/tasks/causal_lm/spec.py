"""A causal language model beside its weights, and its config keys."""

import dataclasses

from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import text_fields
from jaxfm.models.heads import MaskedLM
from jaxfm.schema import field

NAME = "causal_lm"


@dataclasses.dataclass(frozen=True)
class CausalLMConfig:
    """Causal-LM pretraining: how next tokens are scored."""

    name: str = field(NAME, "the task", choices=(NAME,))
    eval_rows: int = field(
        4000, "most rows of valid or test that are scored, evenly spread over the split; 0: all", at_least=0
    )
    z_loss: float = field(0.0, "weight of the squared log-partition, keeps logits small (PaLM: 1e-4)", at_least=0)
    logits_chunk: int = field(
        0,
        "positions of a row whose scores of the whole vocabulary are in memory at once; the backward pass computes "
        "them again; 0: all of them, and nothing twice",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class CausalLMSpec:
    """An encoder whose tokens see only those before them, with a vocabulary head (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder; its sight is causal.
      row_length: tokens a packed row.
    """

    encoder: EncoderConfig
    row_length: int

    def batch_spec(self) -> BatchSpec:
        """Packed text; targets are the same tokens, one further."""
        return text_fields(self.row_length)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> MaskedLM:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, build, rngs)
