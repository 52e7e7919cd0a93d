"""config.json of a Hugging Face directory, read and written; the keys of each family are in `families`."""

from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, UnfitShapeError
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.config_values import ConfigValues, is_integer, shown
from jaxfm.families.family import Family
from jaxfm.families.registry import FAMILIES, classes_with, family

# Families of transformers that are near a name of ours and compute something else.
_OTHERS = ("bart", "ibert", "mbart", "deberta")


def encoder_config(values: Mapping[str, Any], where: str) -> EncoderConfig:
    """Reads a transformers config.json.

    Args:
      values: the parsed file.
      where: its path, for messages.

    Raises:
      UserError: a model_type that is no family here, a value of the wrong kind or outside its range, or one that would
        change the function computed.
    """
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        code = " Code that comes with a model (auto_map) is never run." if "auto_map" in values else ""
        raise UserError(f"{where}: model_type {shown(name)} is not supported. {_nearest(name)}{code}")
    labels_of(values, where)
    try:
        return _read(FAMILIES[name], ConfigValues(values, where))
    except UnfitShapeError as error:  # values that are right each by itself, and not together
        raise UserError(f"{where}: {error}.") from error


def _read(own: Family, values: ConfigValues) -> EncoderConfig:
    found = own.read_config(values)
    if found.sight not in own.sights:
        raise values.error("is_decoder", f"the {own.name} encoder here computes False.")
    return found


def hf_config(
    encoder: EncoderConfig, *, head: str = "", pad_token_id: int | None, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Returns what config.json must say for transformers to build the same model.

    `head` is the kind of head (`families.models.KINDS`); "" stands for the encoder alone. `pad_token_id` is None where
    there are no tokens to pad.

    Raises:
      UserError: a family without tables, or without a class of transformers for that head.
    """
    if problem := missing_class(encoder, head):
        raise UserError(problem)
    own = family(encoder.family)
    written = own.write_config(encoder)
    # transformers takes heads to be that wide where the file does not say otherwise; see hub/whole_heads.py
    assert encoder.num_heads * encoder.head_dim == encoder.hidden_size or "head_dim" in written
    return (
        {"architectures": [own.class_name(head, encoder.sight)], "model_type": encoder.family}
        | written
        | ({} if pad_token_id is None else {"pad_token_id": pad_token_id})
        | {"dtype": "float32"}
        | (_label_values(labels) if labels else {})
    )


def _label_values(labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def missing_class(encoder: EncoderConfig, head: str) -> str:
    """Returns why transformers has no class for a kind of head over an encoder; "" where it has one."""
    own = family(encoder.family)
    if encoder.sight not in own.sights:
        return (
            f"transformers' {own.architecture} classes compute no encoder whose sight is {encoder.sight!r}, only "
            f"{' or '.join(map(repr, own.sights))}."
        )
    if not head or (head in own.heads and own.heads[head].suffix):
        return ""
    return (
        f"transformers has no class with a head of {head} over a {encoder.family} encoder, only "
        f"{', '.join(classes_with(head))}."
    )


def labels_of(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns the class names of id2label in the order of their numbers; empty without any.

    Raises:
      UserError: it is not an object, its keys are not the numbers 0 to n - 1, or a name is not text.
    """
    names = values.get("id2label")
    if names is None:
        return ()
    found = ConfigValues(values, where)
    rule = 'it must be an object from the numbers of the classes, as text, to their names: {"0": "O", "1": "B-PER"}'
    if not isinstance(names, Mapping):
        raise found.error("id2label", f"{rule}.")
    wanted = [str(number) for number in range(len(names))]
    if set(names) != set(wanted):
        if all(is_integer(value) for value in names.values()):
            raise found.error("id2label", f"{rule}. This is label2id: names and numbers are exchanged.")
        missing = [number for number in wanted if number not in names]
        raise found.error("id2label", f"{rule}, without gaps: {missing[0]!r} is not among its {len(names)} keys.")
    for number, name in names.items():
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise found.error("id2label", f"the name of class {number} must be text, not {shown(name)}.")
    return tuple(str(names[number]) for number in wanted)


def _nearest(name: Any) -> str:
    """Names a family that differs by a typing error; else all families, as another architecture is not a near miss."""
    listed = f"The families there are: {', '.join(sorted(FAMILIES))}."
    near = did_you_mean(name, FAMILIES) if isinstance(name, str) else ""
    # At most two letters differ; "deberta" is not "modernbert".
    alike = [known for known in FAMILIES if repr(known) in near and _distance(str(name), known) <= 2]
    return f"Did you mean {alike[0]!r}? {listed}" if alike and name not in _OTHERS else listed


def _distance(one: str, other: str) -> int:
    """Returns how many letters must be added, dropped or changed."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != theirs))
    return row[-1]
