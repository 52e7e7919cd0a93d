"""A generator and a discriminator beside their weights, and their config keys."""

import dataclasses

from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.masking import Masking
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.schema import field
from jaxfm.tasks.masked_spec import MaskedTextConfig, MaskedTextSpec

NAME = "replaced_token"


@dataclasses.dataclass(frozen=True)
class ReplacedTokenConfig(MaskedTextConfig):
    """Replaced-token detection: what the generator has to predict, and how large it is (Clark et al. 2020)."""

    name: str = field(NAME, "the task", choices=(NAME,))
    generator_depth: float = field(
        1 / 3, "layers of the generator as a share of the encoder's, at least one layer", above=0.0, at_most=1.0
    )
    discriminator_weight: float = field(
        50.0, "weight of the discriminator's loss beside the generator's (Clark et al. 2020: 50)", at_least=0
    )

    @property
    def masking(self) -> Masking:
        """Every masked token is replaced by the mask token, as the paper says (its code leaves 15 % as they are)."""
        return Masking(self.unit, mask_share=1.0, random_share=0.0)


@dataclasses.dataclass(frozen=True)
class ReplacedTokenSpec(MaskedTextSpec):
    """An encoder, its detector and the generator (implements jaxfm.core.spec.Spec).

    Attributes:
      generator_layers: of the encoder's shape.
      discriminator_weight: of the discriminator's mean loss beside the generator's.
    """

    generator_layers: int
    discriminator_weight: float

    def make_model(self, build: Build, rngs: nnx.Rngs) -> ReplacedTokenModel:
        """Builds encoder, detector and generator: all that a checkpoint holds."""
        return ReplacedTokenModel(self.encoder, self.generator_layers, build, rngs)


def generator_layers(depth: float, encoder: EncoderConfig) -> int:
    """Returns how many layers a generator of that share of the encoder's depth has."""
    return max(1, round(depth * encoder.num_layers))
