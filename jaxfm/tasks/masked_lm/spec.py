"""A masked language model beside its weights, and its config keys."""

import dataclasses

from flax import nnx

from jaxfm.core.build import Build
from jaxfm.data.text.masking import Masking
from jaxfm.models.heads import MaskedLM
from jaxfm.schema import field
from jaxfm.tasks.masked_spec import MaskedTextConfig, MaskedTextSpec

NAME = "masked_lm"


@dataclasses.dataclass(frozen=True)
class MaskedLMConfig(MaskedTextConfig):
    """Masked-LM pretraining: what is masked (Devlin et al. 2019, section 3.1) and how it is scored."""

    name: str = field(NAME, "the task", choices=(NAME,))
    mask_share: float = field(0.8, "of the masked tokens, those replaced by the mask token", at_least=0, at_most=1)
    random_share: float = field(0.1, "of the masked tokens, those replaced by a random one", at_least=0, at_most=1)
    logits_chunk: int = field(
        0,
        "masked positions of a row whose scores of the whole vocabulary are in memory at once; the backward pass "
        "computes them again; 0: all of them, and nothing twice",
        at_least=0,
    )

    causal_until: float = field(
        0.0,
        "share of all updates, from the first one, that predict each token from those before it and not masked ones "
        "(arXiv 2507.00994: better than masked tokens alone at equal compute); 0: none",
        at_least=0.0,
        below=1.0,
    )

    @property
    def masking(self) -> Masking:
        """Unit and shares of training."""
        return Masking(self.unit, self.mask_share, self.random_share)


@dataclasses.dataclass(frozen=True)
class MaskedLMSpec(MaskedTextSpec):
    """An encoder with a vocabulary head (implements jaxfm.core.spec.Spec)."""

    def make_model(self, build: Build, rngs: nnx.Rngs) -> MaskedLM:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, build, rngs)
