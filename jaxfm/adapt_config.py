"""The keys of what is trained of a model, and of what is added to it for that: `config.adapt`."""

import dataclasses

from jaxfm.schema import field


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank updates beside frozen weights (Hu et al. 2021): y = x W + x A B * alpha / rank."""

    rank: int = field(0, "columns of A and rows of B; 0: none", at_least=0)
    alpha: float = field(16.0, "alpha / rank is the factor of the update", above=0.0)
    targets: tuple[str, ...] = field(
        ("query", "value"),
        "linear maps of a layer that get one: query, key, value, output, up, down, gate (geglu), or all",
    )


@dataclasses.dataclass(frozen=True)
class QuantiseConfig:
    """Training with simulated rounding: each update computes with the weights that jaxfm.quantise would write."""

    bits: int = field(
        0, "weights of the layers' linear maps are rounded to 8 or 4 bits in each product; 0: not", choices=(0, 4, 8)
    )
    inputs: str = field(
        "static",
        "inputs of these products are rounded to 8 bits too: within ranges that are measured at the start and then "
        "learned (static), within each token's own (dynamic), or not (none); with 4 bits: none",
        choices=("static", "dynamic", "none"),
    )
    keep: tuple[str, ...] = field(
        (), "linear maps that stay in floats: query, key, value, output, up, down, gate (geglu)"
    )


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """What of a model is trained, from when on and how fast, and which of its weights a run stands for."""

    train: str = field(
        "all",
        "all; the head alone; biases and head (BitFit, Ben Zaken et al. 2022). The head is all but the encoder",
        choices=("all", "head", "biases"),
    )
    freeze: tuple[str, ...] = field(
        (), "path patterns (fnmatch) of parameters that stay as they are, e.g. encoder/embeddings/*; each must match"
    )
    freeze_layers: int = field(0, "lowest layers that stay as they are (embeddings: see freeze)", at_least=0)
    unfreeze_every: int = field(
        0,
        "updates until the next layer, from the top, and last the embeddings are trained beside the head "
        "(Howard and Ruder 2018, section 3.3); 0: all from the start",
        at_least=0,
    )
    layer_decay: float = field(
        1.0,
        "layer l of L, from 0, learns at the rate times layer_decay^(L - l), embeddings at ^(L + 1), the head at the "
        "rate",
        above=0.0,
        at_most=1.0,
    )
    head_rate: float = field(1.0, "factor of the head's rate", above=0.0)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    adapter_size: int = field(
        0, "width of bottleneck adapters after attention and feed-forward (Houlsby et al. 2019); 0: none", at_least=0
    )
    prefix_length: int = field(
        0, "learned keys and values before those of each layer (Li and Liang 2021); 0: none", at_least=0
    )
    quantise: QuantiseConfig = dataclasses.field(default_factory=QuantiseConfig)
    ema: float = field(
        0.0,
        "decay of a moving average of the weights, which is what is scored, kept and used; 0: the weights themselves",
        at_least=0.0,
        at_most=0.99999,
    )
    average_best: int = field(
        0,
        "the mean of so many best checkpoints is used where it scores better on valid than the best; 0: no mean",
        at_least=0,
    )
