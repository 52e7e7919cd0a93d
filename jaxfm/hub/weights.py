"""Tensors of a Hugging Face directory in and out: strict both ways, safetensors only."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy bfloat16, which safetensors then reads)
import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import encoder_config, labels_of
from jaxfm.hub.families import CLASSIFIER_HEAD, FAMILIES, Family, Tensor, present


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory's weights in jaxfm's names.

    Attributes:
      encoder: shape of the encoder.
      params: path -> f32 array, layers stacked along a leading axis: "encoder/..."; "head/..." of a classifier whose
        classes have names; "pooler/..." before classes of whole examples; "transform/..." and "decoder/bias" of a
        masked-LM head; "detector/..." of replaced-token detection. The vocabulary is padded
        (EncoderConfig.padded_vocab_size).
      labels: class names of the "head/" in `params`; empty when there is none.
      notes: sentences for the log: which tensors were not used.
    """

    encoder: EncoderConfig
    params: dict[str, np.ndarray]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def read_config(directory: pathlib.Path) -> EncoderConfig:
    """Reads config.json of a Hugging Face directory; UserError when it is missing or not supported."""
    return encoder_config(_config_values(directory), str(directory / "config.json"))


def read_checkpoint(directory: pathlib.Path) -> Checkpoint:
    """Reads a Hugging Face directory whole.

    Raises:
      UserError: no safetensors (a .bin is refused: it is a pickle), a tensor missing, twice there, unknown, of wrong
        shape, no floating-point numbers, or not finite.
    """
    values = _config_values(directory)
    config = encoder_config(values, str(directory / "config.json"))
    family = FAMILIES[config.family]
    tensors, notes = _without_wrapper(_read_tensors(directory), family, directory)
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    table = encoder_tensors(config, prefix)
    pooled = _pooled_tensors(family, prefix)
    heads = (_classifier_tensors(config), _last_layer(pooled))
    classes = next((head for head in heads if head and all(t.name in tensors for t in head.values())), {})
    labels = labels_of(values, str(directory / "config.json")) if classes else ()
    if labels:
        table |= classes
    pooler = {ours: tensor for ours, tensor in pooled.items() if ours.startswith("pooler/")}
    if all(tensor.name in tensors for tensor in pooler.values()):
        table |= pooler
    head = present(family.masked_lm, config)
    untied = _untied(table | head, family, tensors)
    if not untied and all(tensor.name in tensors for tensor in head.values()):
        table |= head
    if all(tensor.name in tensors for tensor in family.detector.values()):
        table |= family.detector
    params, used = {}, set()
    for ours, tensor in table.items():
        value, names = _gather(ours, tensor, tensors, config, len(labels), directory)
        params[ours] = pad_vocabulary(value, config) if has_padded_rows(ours) else value
        used |= names
    if "decoder/bias" in params:
        used |= set(family.tied)
    extras = {name if prefix else name.removeprefix(family.prefix) for name in family.known_extras}
    extras |= {tensor.name for tensor in (*head.values(), *family.detector.values())} | set(family.tied)
    unused = sorted(set(tensors) - used)
    unknown = [name for name in unused if name not in extras]
    if unknown:
        raise UserError(
            f"{directory}: {len(unknown)} tensors have no place in a {config.family} encoder: {', '.join(unknown[:8])}"
            f"{' ...' if len(unknown) > 8 else ''}. The checkpoint is of another architecture than config.json says."
        )
    if unused:
        notes.append(f"weights not used: {', '.join(unused)}")
    if untied:
        notes.append(f"masked-LM head not used: {untied}; here they are one parameter")
    return Checkpoint(config, params, labels, tuple(notes))


def write_tensors(path: pathlib.Path, config: EncoderConfig, params: Mapping[str, np.ndarray]) -> None:
    """Writes encoder and head (path -> array) under transformers' names to one safetensors file, without padding.

    The head is that of masked LM where `params` has its decoder, that of replaced-token detection where it has a
    detector, that of classes of whole examples where it has a pooler, else a token classifier's (which is ModernBERT's
    for whole examples too).
    """
    family = FAMILIES[config.family]
    table = encoder_tensors(config, family.prefix)
    if "decoder/bias" in params:
        table |= present(family.masked_lm, config)
    elif "detector/head/bias" in params:
        table |= family.detector
    else:
        table |= family.pooled if "pooler/kernel" in params else _classifier_tensors(config)
    assert set(params) == set(table), f"parameters without a name: {sorted(set(params) ^ set(table))}"
    found: dict[str, list[np.ndarray]] = {}
    for ours, tensor in table.items():
        value = np.asarray(params[ours], np.float32)
        if has_padded_rows(ours):
            assert len(value) == config.padded_vocab_size, f"{ours}: {len(value)} rows"
            value = value[: config.vocab_size]
        names = tensor.names(config.num_layers)
        for name, array in zip(names, value if tensor.layered else [value], strict=True):
            if tensor.inputs:
                array = array.reshape(math.prod(array.shape[: tensor.inputs]), -1).T
            elif tensor.layered:
                array = array.reshape(-1)
            assert len(found.setdefault(name, [])) == tensor.part, f"{ours}: the parts of {name} are out of order"
            found[name].append(array)
    tensors = {name: np.ascontiguousarray(np.concatenate(parts)) for name, parts in found.items()}
    with files.atomic_write(path, binary=True) as file:
        # The metadata is what transformers looks for to know how the file was laid out.
        file.write(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def pad_vocabulary(table: np.ndarray, config: EncoderConfig) -> np.ndarray:
    """Appends rows of zeros to an array [V, ...] up to the padded vocabulary."""
    assert len(table) == config.vocab_size
    return np.pad(table, [(0, config.padded_vocab_size - len(table)), *[(0, 0)] * (table.ndim - 1)])


def encoder_tensors(config: EncoderConfig, prefix: str) -> dict[str, Tensor]:
    """Ours -> theirs, under full names."""
    table = present(FAMILIES[config.family].encoder, config).items()
    return {
        f"encoder/{ours}": dataclasses.replace(t, name=prefix + t.name, last=t.last and prefix + t.last)
        for ours, t in table
    }


def _classifier_tensors(config: EncoderConfig) -> dict[str, Tensor]:
    """The head of token classifiers, which shares its transform with masked LM in families that have one."""
    head = present(FAMILIES[config.family].masked_lm, config) if config.classifier_transform else {}
    return {ours: tensor for ours, tensor in head.items() if ours.startswith("transform/")} | CLASSIFIER_HEAD


def _pooled_tensors(family: Family, prefix: str) -> dict[str, Tensor]:
    """The head of classes of whole examples; a pooler goes without prefix where the encoder does."""
    bare = {ours: dataclasses.replace(t, name=t.name.removeprefix(family.prefix)) for ours, t in family.pooled.items()}
    return dict(family.pooled) if prefix else bare


def _last_layer(table: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {ours: tensor for ours, tensor in table.items() if ours.startswith("head/")}


def _untied(table: Mapping[str, Tensor], family: Family, tensors: Mapping[str, np.ndarray]) -> str:
    """Says which tensor of the checkpoint differs from the one it must equal; "" when none does."""
    for name, ours in family.tied.items():
        own = table[ours].name
        if name in tensors and own in tensors and not np.array_equal(tensors[name], tensors[own]):
            return f"{name} differs from {own}"
    return ""


def _gather(
    ours: str,
    tensor: Tensor,
    tensors: Mapping[str, np.ndarray],
    config: EncoderConfig,
    num_classes: int,
    directory: pathlib.Path,
) -> tuple[np.ndarray, set[str]]:
    """Returns one of our arrays, layers stacked, and the names it was made from."""
    names = tensor.names(config.num_layers)
    shape = _shape(ours, config, num_classes)
    parts = []
    for name in names:
        if name not in tensors:
            raise UserError(f"{directory}: the tensor {name!r} is missing (needed for {ours}).")
        value = tensors[name]
        if list(value.shape) != (wanted := _their_shape(ours, tensor, shape)):
            raise UserError(f"{directory}: {name!r} has shape {list(value.shape)}, but config.json asks for {wanted}.")
        value = np.split(value, tensor.parts)[tensor.part]
        check_finite(name, value, str(directory))
        value = value.astype(np.float32)
        parts.append((value.T if tensor.inputs else value).reshape(shape))
    return (np.stack(parts) if tensor.layered else parts[0]), set(names)


def _shape(ours: str, config: EncoderConfig, num_classes: int) -> tuple[int, ...]:
    """Shape of one layer's part of a parameter."""
    d, f, heads = config.hidden_size, config.ffn_size, (config.num_heads, config.head_dim)
    kind = ours.removeprefix("encoder/").removeprefix("layers/")
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings/word/embedding": (config.vocab_size, d),
        "embeddings/position/embedding": (config.max_positions + config.position_offset, d),
        "embeddings/type/embedding": (config.type_vocab_size, d),
        "attention/output/kernel": (*heads, d),
        "ffn/up/kernel": (d, f),
        "ffn/up/bias": (f,),
        "ffn/gate/kernel": (d, f),
        "ffn/gate/bias": (f,),
        "ffn/down/kernel": (f, d),
        "head/kernel": (d, num_classes),
        "head/bias": (num_classes,),
        "pooler/kernel": (d, d),
        "detector/dense/kernel": (d, d),
        "detector/head/kernel": (d, 1),
        "detector/head/bias": (1,),
        "transform/dense/kernel": (d, d),
        "decoder/bias": (config.vocab_size,),
    }
    for name in ("query", "key", "value"):
        shapes |= {f"attention/{name}/kernel": (d, *heads), f"attention/{name}/bias": heads}
    return shapes.get(kind, (d,))


def _their_shape(ours: str, tensor: Tensor, shape: tuple[int, ...]) -> list[int]:
    """Shape in the checkpoint of what is `shape` here: [out, in] for a linear map's kernel, heads in one axis."""
    if tensor.inputs:
        return [tensor.parts * math.prod(shape[tensor.inputs :]), math.prod(shape[: tensor.inputs])]
    return [tensor.parts * math.prod(shape)] if ours.endswith("/bias") else list(shape)


def check_finite(name: str, value: np.ndarray, where: str) -> None:
    """Raises UserError where weights are no floating-point numbers, or one of them is NaN or infinite."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(
            f"{where}: {name!r} holds {value.dtype} numbers. Weights are read as floating-point numbers; quantised "
            "ones must be converted first."
        )
    with np.errstate(all="ignore"):
        total = value.sum(dtype=np.float32)  # one pass, and no array as large as the weights
    if np.isfinite(total) or (finite := np.isfinite(value)).all():
        return
    raise UserError(
        f"{where}: {np.size(finite) - np.count_nonzero(finite):,} of the {value.size:,} numbers of {name!r} are NaN or "
        "infinite: these weights were damaged, or saved after a training that diverged. Take an earlier checkpoint."
    )


def _read_tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a directory, under the names of today."""
    found: dict[str, np.ndarray] = {}
    origins: dict[str, pathlib.Path] = {}
    for path in _safetensors_files(directory):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    own = _renamed(name)
                    if own in found:
                        both = " and ".join(dict.fromkeys((origins[own].name, path.name)))
                        raise UserError(f"{directory}: the tensor {own!r} is there twice, in {both}. Fetch it again.")
                    found[own], origins[own] = file.get_tensor(name), path
        except UserError:
            raise
        # Types that numpy does not have are a TypeError or a KeyError, by the version of safetensors.
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path}: is not a whole safetensors file ({error}). Fetch it again.") from error
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: holds a type of numbers that is not read here ({error!r}).") from error
    return found


def _without_wrapper(
    tensors: dict[str, np.ndarray], family: Family, directory: pathlib.Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Takes off what torch's wrappers put before all names ("module.", "_orig_mod."); returns a note that says so.

    Raises:
      UserError: some names have it and others do not.
    """
    word = family.encoder["embeddings/word/embedding"].name
    known = {family.prefix + word, word}
    wrapped = sorted(name for name in tensors if name.endswith(f".{word}") and name not in known)
    if not wrapped or known & set(tensors):
        return tensors, []
    wrapper = wrapped[0].removesuffix(word).removesuffix(family.prefix)
    # A family's own prefix may be what a wrapper is called: "model." before ModernBERT's encoder, but not its head.
    others = [name for name in tensors if not name.startswith(wrapper)]
    if others:
        raise UserError(
            f"{directory}: the encoder's tensors are called {wrapper!r} + {word!r}, but other names do not start so "
            f"({', '.join(sorted(others)[:3])}): the file holds more than a model of transformers. Save the model "
            "inside alone (save_pretrained)."
        )
    note = f"weights: all tensor names start with {wrapper!r}, which was taken off"
    return {name.removeprefix(wrapper): value for name, value in tensors.items()}, [note]


def _safetensors_files(directory: pathlib.Path) -> list[pathlib.Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = _shards(index)
        if any(pathlib.PurePath(name).name != name for name in names):
            raise UserError(f"{index}: names files outside its directory: {names}.")
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise UserError(f"{directory}: {', '.join(missing)} listed in {index.name} but not there.")
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.h5") for path in directory.glob(pattern))
    if pickles:
        raise UserError(
            f"{directory}: has {pickles[0]} but no model.safetensors. jaxfm reads safetensors only (a .bin is a pickle "
            "and can run code). Convert it once where torch is installed: AutoModel.from_pretrained(DIR)"
            ".save_pretrained(NEW_DIR)."
        )
    raise UserError(f"{directory}: has no model.safetensors (found: {', '.join(_listing(directory)) or 'nothing'}).")


def _shards(index: pathlib.Path) -> list[str]:
    """Names of the files that an index says hold the tensors."""
    table = _json_object(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{index}: has no 'weight_map' from tensors to files. Fetch it again.")
    return sorted(set(table.values()))


def _config_values(directory: pathlib.Path) -> dict[str, object]:
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: has no config.json (found: {', '.join(_listing(directory)) or 'nothing'}).")
    return _json_object(path)


def _json_object(path: pathlib.Path) -> dict[str, object]:
    try:
        values = files.read_json(path)
    except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
        raise UserError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: is JSON, but not an object of keys and values.")
    return values


def _renamed(name: str) -> str:
    """The first BERT checkpoints carry TensorFlow's names of layer-norm parameters; transformers renames them too."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _listing(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())[:12]
