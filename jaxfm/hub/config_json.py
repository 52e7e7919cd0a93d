"""config.json of Hugging Face weights: each value of the right kind and in its range, or a message that names it."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.families import FAMILIES

# Above all published encoders by an order of magnitude; what is larger is a slip, and would be taken for memory.
_MOST = {
    "vocab_size": 10_000_000,
    "hidden_size": 100_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_000,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 10_000_000,
    "type_vocab_size": 100_000,
    "local_attention": 10_000_000,
    "global_attn_every_n_layers": 1_000,
}
_SHOWN = 80  # characters of a value in a message
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Values:
    """The parsed file and its path, for messages."""

    values: Mapping[str, Any]
    where: str

    def refuse(self, key: str, rule: str) -> UserError:
        """Returns the error for a key whose value breaks a rule."""
        return UserError(f"{self.where}: {key} is {shown(self.values.get(key))}; {rule}")

    def integer(self, key: str, default: Any = _MISSING, *, least: int = 1) -> int:
        """Returns an integer in its range; a missing key without a default is an error."""
        value = self._get(key, default)
        if not _is_integer(value) or not least <= value <= _MOST[key]:
            rule = f"it must be an integer from {least} to {_MOST[key]:,}"
            raise self.refuse(key, f"{rule}{_as_integer(value, least, _MOST[key])}.")
        return value

    def number(self, key: str, default: Any, *, rule: str, holds: Callable[[float], bool]) -> float:
        """Returns a finite number for which a rule holds."""
        value = self._get(key, default)
        if not is_number(value) or not holds(value):
            raise self.refuse(key, f"it must be {rule}.")
        return float(value)

    def probability(self, key: str, default: float) -> float:
        """Returns a rate of dropout."""
        return self.number(key, default, rule="a number from 0 to below 1", holds=lambda value: 0 <= value < 1)

    def positive(self, key: str, default: float) -> float:
        """Returns what is added to a variance, or a standard deviation: above 0, at most 1."""
        return self.number(key, default, rule="a number above 0 and at most 1", holds=lambda value: 0 < value <= 1)

    def boolean(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "it must be true or false.")
        return value

    def require(self, **required: Any) -> None:
        """Refuses values with which transformers computes another function than the encoder here."""
        for key, value in required.items():
            if self.values.get(key, value) != value:
                raise self.refuse(key, f"the {self.values['model_type']} encoder here computes {value!r}.")

    def _get(self, key: str, default: Any) -> Any:
        if key in self.values:
            return self.values[key]
        if default is _MISSING:
            raise UserError(f"{self.where}: the key {key!r} is missing.")
        return default


def encoder_config(values: Mapping[str, Any], where: str) -> EncoderConfig:
    """Reads a transformers config.json.

    Args:
      values: the parsed file.
      where: its path, for messages.

    Raises:
      UserError: a model_type without a name table, a value of the wrong kind or outside its range, or one that would
        change the function computed.
    """
    family = values.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"{where}: model_type {shown(family)} is not supported. {_nearest(family)}")
    found = Values(values, where)
    labels_of(values, where)
    width, heads = found.integer("hidden_size"), found.integer("num_attention_heads")
    if width % heads:
        raise UserError(f"{where}: hidden_size {width} is not a multiple of num_attention_heads {heads}.")
    return (_read_modern if family == "modernbert" else _read_bert)(family, found)


def labels_of(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns the class names of id2label in the order of their numbers; empty without any.

    Raises:
      UserError: it is not an object, its keys are not the numbers 0 to n - 1, or a name is not text.
    """
    names = values.get("id2label")
    if names is None:
        return ()
    found = Values(values, where)
    rule = 'it must be an object from the numbers of the classes, as text, to their names: {"0": "O", "1": "B-PER"}'
    if not isinstance(names, Mapping):
        raise found.refuse("id2label", f"{rule}.")
    wanted = [str(number) for number in range(len(names))]
    if set(names) != set(wanted):
        if all(_is_integer(value) for value in names.values()):
            raise found.refuse("id2label", f"{rule}. This is label2id: names and numbers are exchanged.")
        missing = [number for number in wanted if number not in names]
        raise found.refuse("id2label", f"{rule}, without gaps: {missing[0]!r} is not among its {len(names)} keys.")
    for number, name in names.items():
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise found.refuse("id2label", f"the name of class {number} must be text, not {shown(name)}.")
    return tuple(str(names[number]) for number in wanted)


def shown(value: Any) -> str:
    """Returns a value as JSON writes it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=repr) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_integer(value: Any, least: int, most: int) -> str:
    """Names the integer that is probably meant; "" where there is none."""
    try:
        meant = float(value) if isinstance(value, str | float) else math.nan
    except ValueError:
        return ""
    return f" (write {int(meant)})" if meant.is_integer() and least <= meant <= most else ""


def _nearest(family: Any) -> str:
    """Names a family that differs by a slip of the pen, else all there are: another architecture is no near miss."""
    listed = f"The families there are: {', '.join(sorted(FAMILIES))}."
    near = did_you_mean(family, FAMILIES) if isinstance(family, str) else ""
    # Two letters more or less; "deberta" is not "modernbert".
    alike = [name for name in FAMILIES if repr(name) in near and _distance(str(family), name) <= 2]
    return f"Did you mean {alike[0]!r}? {listed}" if alike and family not in _OTHERS else listed


# Families of transformers that are near a name above and compute something else.
_OTHERS = ("albert", "bart", "ibert", "mbart")


def _distance(one: str, other: str) -> int:
    """Returns how many letters must be added, dropped or changed."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != theirs))
    return row[-1]


def _read_bert(family: str, found: Values) -> EncoderConfig:
    values, where = found.values, found.where
    found.require(hidden_act="gelu", position_embedding_type="absolute", is_decoder=False)
    # transformers' default is 128, whatever the width.
    if family == "electra" and (size := values.get("embedding_size", 128)) != values["hidden_size"]:
        raise UserError(
            f"{where}: embedding_size is {shown(size)} and hidden_size {values['hidden_size']}; the electra encoder "
            "here has no projection between them, so both must be the same (as in electra-base and electra-large)."
        )
    offset = 0
    if family in ("roberta", "xlm-roberta"):
        pad = values.get("pad_token_id", 1)
        if not _is_integer(pad) or not 0 <= pad < _MOST["vocab_size"]:
            raise UserError(
                f"{where}: pad_token_id is {shown(pad)}; {family} counts positions from pad_token_id + 1, so it must "
                "be an integer (1 in the published checkpoints)."
            )
        offset = pad + 1
    return EncoderConfig(
        family=family,
        vocab_size=found.integer("vocab_size"),
        hidden_size=found.integer("hidden_size"),
        num_layers=found.integer("num_hidden_layers"),
        num_heads=found.integer("num_attention_heads"),
        ffn_size=found.integer("intermediate_size"),
        max_positions=found.integer("max_position_embeddings", least=1 + offset) - offset,
        position_offset=offset,
        type_vocab_size=found.integer("type_vocab_size"),
        norm_eps=found.positive("layer_norm_eps", 1e-12),
        pooler="gelu" if family == "electra" else "tanh",
        dropout=found.probability("hidden_dropout_prob", 0.1),
        attention_dropout=found.probability("attention_probs_dropout_prob", 0.1),
        initializer_range=found.positive("initializer_range", 0.02),
    )


def _read_modern(family: str, found: Values) -> EncoderConfig:
    """Defaults are those of transformers' ModernBertConfig."""
    found.require(hidden_activation="gelu", classifier_activation="gelu", decoder_bias=True)
    biases = {key: found.boolean(key, False) for key in ("attention_bias", "mlp_bias", "classifier_bias")}
    if len(set(biases.values())) > 1:
        raise UserError(f"{found.where}: {biases}; the encoder here has all of these biases or none.")
    if found.integer("hidden_size") // found.integer("num_attention_heads") % 2:
        raise UserError(f"{found.where}: hidden_size / num_attention_heads must be even: rotary positions turn pairs.")
    thetas = {kind: _rope_theta(kind, found.values, found.where) for kind in _ROPE}
    every, window = _global_every(found), found.integer("local_attention", 128, least=2)
    return EncoderConfig(
        family=family,
        vocab_size=found.integer("vocab_size"),
        hidden_size=found.integer("hidden_size"),
        num_layers=found.integer("num_hidden_layers"),
        num_heads=found.integer("num_attention_heads"),
        ffn_size=found.integer("intermediate_size"),
        max_positions=found.integer("max_position_embeddings"),
        type_vocab_size=0,
        norm_eps=found.positive("norm_eps", 1e-5),
        # transformers has one rate each for embeddings, feed-forward and head; jaxfm one for all of them.
        dropout=found.probability("mlp_dropout", 0.0),
        attention_dropout=found.probability("attention_dropout", 0.0),
        initializer_range=found.positive("initializer_range", 0.02),
        norm_placement="pre",
        position_embedding="rope",
        global_rope_theta=thetas["full_attention"],
        local_rope_theta=thetas["sliding_attention"],
        local_window=window if every > 1 else 0,
        global_every=every,
        ffn="geglu",
        linear_bias=biases["attention_bias"],
        norm_bias=found.boolean("norm_bias", False),
        classifier_transform=True,
    )


# Kind of layer -> key of transformers < 5 and its default.
_ROPE = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def _rope_theta(kind: str, values: Mapping[str, Any], where: str) -> float:
    """Reads the base of the rotary frequencies; only unscaled ones are computed here."""
    old_key, default = _ROPE[kind]
    rope = values.get("rope_parameters") or {}
    own = rope.get(kind) or {} if isinstance(rope, Mapping) else None
    if not isinstance(own, Mapping) or set(rope) - set(_ROPE) or values.get("rope_scaling"):
        raise UserError(
            f"{where}: rope_parameters {shown(rope)}, rope_scaling {shown(values.get('rope_scaling'))}; the modernbert "
            "encoder here takes rope_parameters of 'full_attention' and 'sliding_attention' and no rope_scaling."
        )
    if own.get("rope_type", "default") != "default" or set(own) - {"rope_type", "rope_theta"}:
        raise UserError(f"{where}: rope_parameters[{kind!r}] is {shown(own)}; only rope_type 'default' is computed.")
    theta = own.get("rope_theta", values.get(old_key, default))
    if not is_number(theta) or not 0 < theta <= 1e12:
        raise UserError(
            f"{where}: {old_key} (rope_theta of {kind}) is {shown(theta)}; it must be a positive number, at most 1e12."
        )
    return float(theta)


def _global_every(found: Values) -> int:
    """Reads which layers see the whole segment: every n-th, from the first."""
    layers, kinds = found.integer("num_hidden_layers"), found.values.get("layer_types")
    if kinds is None:
        return found.integer("global_attn_every_n_layers", 3)
    if isinstance(kinds, list):
        # The second layer that sees everything gives n away; where there is none, any n >= layers says the same.
        whole = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
        every = whole[1] if len(whole) > 1 else layers
        if kinds == ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]:
            return every
    raise found.refuse(
        "layer_types",
        f"the modernbert encoder here computes 'full_attention' in every n-th of {layers} layers, from the first, and "
        "'sliding_attention' in the others.",
    )
