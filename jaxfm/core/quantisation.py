"""How the linear maps of an encoder's layers are rounded: a part of the encoder's shape, kept in task.json."""

import dataclasses

WEIGHT_BITS = (8, 4)
NONE, STATIC, DYNAMIC = "none", "static", "dynamic"
INPUTS = (NONE, STATIC, DYNAMIC)
# The form in which a model lies in memory. Trained: weights are floats that each product rounds. Stored: weights are
# rounded, and products with rounded inputs are of integers. Observed: nothing is rounded, inputs are measured.
TRAINED, STORED, OBSERVED = "trained", "stored", "observed"
FORMS = (TRAINED, STORED, OBSERVED)
# Consecutive inputs that share a scale where weights have 4 bits: the smallest block that onnxruntime's kernels like.
GROUP = 32


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What is rounded to integers times a scale; without arguments nothing is.

    Weights are symmetric, q * scale with |q| <= 2^(bits - 1) - 1, and a column (an output) has a scale, or one for each
    `group` consecutive inputs. Inputs of products are symmetric integers of 8 bits: "static" ones have one range a map
    and layer, known before; "dynamic" ones a range a token, its largest number.

    Attributes:
      weights: bits of the weights; 0: nothing is rounded.
      inputs: of the products, one of `INPUTS`.
      group: consecutive inputs of a column that share a scale; 0: all of them.
      maps: names of the linear maps of a layer that are rounded ("query", "down" ...).
      form: one of `FORMS`.
      switched: some layers are left in floats: those whose range is infinite.
    """

    weights: int = 0
    inputs: str = NONE
    group: int = 0
    maps: tuple[str, ...] = ()
    form: str = TRAINED
    switched: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", tuple(self.maps))  # a list where it comes from JSON

    @property
    def problem(self) -> str:
        """What is wrong with its values; empty where nothing is."""
        if self.weights not in (0, *WEIGHT_BITS):
            return f"weights of {self.weights!r:.20} bits; they have {' or '.join(map(str, WEIGHT_BITS))}"
        if self.inputs not in INPUTS:
            return f"inputs {self.inputs!r:.20}; they are {', '.join(INPUTS)}"
        if self.form not in FORMS:
            return f"form {self.form!r:.20}; it is one of {', '.join(FORMS)}"
        if self.rounds_inputs and (self.weights != 8 or self.group):
            return "products of integers have weights of 8 bits and a scale a column"
        if not isinstance(self.group, int) or not 0 <= self.group <= 4096:
            return f"a group of {self.group!r:.20} inputs; it is from 0 to 4096"
        return ""

    @property
    def rounds_inputs(self) -> bool:
        """Whether the inputs of products are rounded too."""
        return self.inputs != NONE

    @property
    def has_integers(self) -> bool:
        """Whether the kernels of a model in memory are integers, with their scales beside them."""
        return self.form == STORED and self.rounds_inputs and not self.switched

    def rounds(self, name: str) -> bool:
        """Whether the map of that name is rounded."""
        return self.weights > 0 and name in self.maps


IN_FLOATS = Quantisation()
