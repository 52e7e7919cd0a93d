"""What objectives over masked tokens share: config keys, and what a model is beside its weights."""

import dataclasses

from jaxfm.core.batch import BatchSpec
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.packing import text_fields
from jaxfm.schema import field
from jaxfm.tasks.mask_ratios import starts_of


@dataclasses.dataclass(frozen=True)
class MaskedTextConfig:
    """What is masked (Devlin et al. 2019, section 3.1) and how it is scored."""

    unit: str = field("token", "what is masked as a whole", choices=("token", "whole_word", "span"))
    ratio: float = field(0.15, "share of the tokens that are masked, at the first step", above=0.0, at_most=0.9)
    final_ratio: float | None = field(
        None, "the same at the last step, linear between; None: the ratio stays", above=0.0, at_most=0.9
    )
    later_ratios: tuple[float, ...] = field(
        (),
        "shares of the tokens that are masked in later stages of the run, `ratio` being that of the first one; each "
        "holds until the next (mmBERT: ratio 0.3, then 0.15 and 0.05); empty: one stage",
    )
    later_at: tuple[float, ...] = field(
        (), "shares of all updates from which each of later_ratios holds; empty: at equal intervals"
    )
    evaluate: tuple[str, ...] = field(
        ("token", "whole_word", "span"), "units whose fixed masks validation and test are scored on, beside `unit`"
    )
    eval_rows: int = field(
        4000, "most rows of valid or test that are masked and scored, evenly spread over the split; 0: all", at_least=0
    )
    z_loss: float = field(0.0, "weight of the squared log-partition, keeps logits small (PaLM: 1e-4)", at_least=0)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Share of the tokens that are masked: at the first and at the last step, or in each stage."""
        if self.later_ratios:
            return self.ratio, *self.later_ratios
        return self.ratio, self.ratio if self.final_ratio is None else self.final_ratio

    @property
    def ratio_starts(self) -> tuple[float, ...]:
        """Progress at which each stage but the first one starts; () without stages."""
        return starts_of(self.later_ratios, self.later_at)


@dataclasses.dataclass(frozen=True)
class MaskedTextSpec:
    """What a model trained on masked tokens is beside its weights, whatever its heads.

    Attributes:
      encoder: shape of the encoder.
      masking: unit and shares of training.
      ratios: share of the tokens that are masked: at the first and at the last step, or in each stage.
      units: in which held-out text is masked and scored, the run's own first.
      row_length: tokens a packed row.
      ratio_starts: progress at which each stage but the first one starts; () without stages.
    """

    encoder: EncoderConfig
    masking: Masking
    ratios: tuple[float, ...]
    units: tuple[str, ...]
    row_length: int
    ratio_starts: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)

    def batch_spec(self) -> BatchSpec:
        """Packed text; masks and targets are drawn on the device."""
        return text_fields(self.row_length)
