"""The layout of sentence-transformers: how vectors are made of a transformer's output, beside its files.

modules.json lists what a text passes through: the transformer (in the folder itself), pooling, perhaps a linear map,
and normalisation. What is written here are the names and keys that versions 2 to 6 read. Sources: base/model.py and
base/modules/ of sentence-transformers 6.2.0.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.initial import HostArray, SentenceLayout
from jaxfm.errors import UserError
from jaxfm.hub.directory import json_object
from jaxfm.hub.tensor_files import check_finite, check_floating, open_tensors
from jaxfm.hub.tensor_writing import write_f32

MODULES_FILE = "modules.json"
ROLES = ("query", "document")
CONFIG_FILE = "config_sentence_transformers.json"
LENGTH_FILE = "sentence_bert_config.json"
_TYPES = "sentence_transformers.models."
# The first version that has a similarity and prompts in its configuration. A later one would be warned about by older
# installations, though they read all of it.
_VERSION = "3.0.0"
# Ours -> (key since 6, the key before, which 6 reads as well).
_POOLINGS = {
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "cls": ("cls", "pooling_mode_cls_token"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
}
_OTHER_POOLINGS = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
)
IDENTITY = "torch.nn.modules.linear.Identity"
# Prompts by which `encode_document` finds a document's, the first that is there.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_UNLIMITED = 10**6  # tokenizers write about 1e30 for no limit


def write_sentence_transformers(
    folder: pathlib.Path,
    *,
    width: int,
    pooling: str,
    normalize: bool,
    prompts: Mapping[str, str],
    max_length: int,
    similarity: str,
    projection: np.ndarray | None = None,
) -> None:
    """Writes what `SentenceTransformer(folder)` reads beside the files of `hub.export.write_model` with `head=""`.

    Args:
      folder: with the transformer's files.
      width: of the encoder, D.
      pooling: "mean", "cls" or "last".
      normalize: vectors have length 1.
      prompts: "query" and "document" -> what is put before such a text.
      max_length: tokens of a text that are read, special ones included.
      similarity: "cosine" or "dot".
      projection: f32 [D, P] of a linear map without bias after the pooling; None: there is none.
    """
    modules = ["Transformer", "Pooling"]
    write_module(folder, 1, "Pooling", _pooling_values(width, pooling))
    if projection is not None:
        modules.append("Dense")
        write_dense(folder, len(modules) - 1, projection)
    if normalize:
        modules.append("Normalize")
        write_module(folder, len(modules) - 1, "Normalize", {})
    _write_module_list(folder, modules)
    files.write_json(folder / LENGTH_FILE, {"max_seq_length": max_length, "do_lower_case": False})
    files.write_json(
        folder / CONFIG_FILE,
        {
            "model_type": "SentenceTransformer",
            "__version__": {"sentence_transformers": _VERSION},
            "prompts": {role: prompts.get(role, "") for role in ROLES},
            "default_prompt_name": None,
            "similarity_fn_name": similarity,
        },
    )


def read_sentence_transformers(directory: pathlib.Path) -> tuple[SentenceLayout, dict[str, HostArray]] | None:
    """Returns how a directory makes vectors, and the linear map "projection/kernel" [D, P] if it has one.

    None for a directory without modules.json. What jaxfm does not compute is named in `SentenceLayout.unread`, for the
    caller to refuse where it matters.

    Raises:
      UserError: a file that is damaged, or absent though modules.json names it.
    """
    if not (directory / MODULES_FILE).is_file():
        return None
    layout, params = SentenceLayout(), dict[str, HostArray]()
    unread: list[str] = []
    pooled = False
    for number, (kind, path) in enumerate(modules_of(directory)):
        values = module_values(directory, path) if kind in ("Pooling", "Dense") else {}
        if kind == "Transformer":
            if path or number:
                unread.append(f"a transformer in the subfolder {path!r}")
        elif kind == "Pooling":
            pooled = True
            layout = dataclasses.replace(layout, pooling=_pooling(values, unread))
        elif kind == "Dense" and not layout.normalize and "projection/kernel" not in params:
            if problem := _dense_problem(values, pooled):
                unread.append(problem)
            else:
                params["projection/kernel"] = dense_kernel(directory / path, values)
        elif kind == "Normalize":
            layout = dataclasses.replace(layout, normalize=True)
        else:
            unread.append(f"the module {kind}")
    layout = _with_settings(directory, layout, unread)
    return dataclasses.replace(layout, unread=tuple(unread)), params


def modules_of(directory: pathlib.Path) -> list[tuple[str, str]]:
    """Returns (kind, subfolder) of each module of modules.json, in order; UserError where it is damaged."""
    path = directory / MODULES_FILE
    try:
        listed = files.read_json(path)
        modules = [(str(entry["type"]).rpartition(".")[2], str(entry.get("path", ""))) for entry in listed]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is not a list of modules with a type and a path each ({error!r:.80}).") from error
    for _, inside in modules:
        if pathlib.PurePath(inside).is_absolute() or ".." in pathlib.PurePath(inside).parts:
            raise UserError(f"{path}: names {inside!r}, which is outside {directory}.")
    return modules


def module_values(directory: pathlib.Path, path: str) -> dict[str, Any]:
    """Returns the configuration of a module in a subfolder; UserError where it is absent."""
    file = directory / path / "config.json"
    if not os.path.isfile(file):  # also one too long for a name
        raise UserError(
            f"{directory / MODULES_FILE}: names {path!r}, but {file} is missing. Fetch the whole directory."
        )
    return json_object(file)


def _pooling(values: Mapping[str, Any], unread: list[str]) -> str:
    """Returns the pooling, "mean" with an entry in `unread` for one that jaxfm has not."""
    mode = values.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or ())
    if not modes:
        modes = [new for new, old in _POOLINGS.values() if values.get(old)]
        modes += [name.removeprefix("pooling_mode_") for name in _OTHER_POOLINGS if values.get(name)]
    modes = modes or ["mean"]
    found = {new: ours for ours, (new, _) in _POOLINGS.items()}.get(modes[0])
    if len(modes) > 1 or found is None:
        unread.append(f"the pooling {'+'.join(map(str, modes))}")
        return "mean"
    if values.get("include_prompt") is False:
        unread.append("a pooling without the tokens of the prompt")
    return found


def _dense_problem(values: Mapping[str, Any], pooled: bool) -> str:
    """Returns why a linear map is none that jaxfm computes; "" for one that it does."""
    if not pooled or values.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        return "a Dense module over tokens"
    return dense_form_problem(values)


def dense_form_problem(values: Mapping[str, Any]) -> str:
    """Returns why a linear map, whatever it is of, is none that jaxfm computes; "" for one that it does."""
    if values.get("bias", True):
        return "a Dense module with a bias"
    if not str(values.get("activation_function", "torch.nn.modules.activation.Tanh")).endswith(".Identity"):
        return f"a Dense module with the activation {values.get('activation_function', 'Tanh')}"
    return "a Dense module with a residual connection" if values.get("use_residual") else ""


def dense_kernel(folder: pathlib.Path, values: Mapping[str, Any]) -> np.ndarray:
    """Returns the weights of a linear map as [D, P]; UserError where the files do not hold it."""
    tensors = open_tensors(folder)
    shape = (values.get("out_features"), values.get("in_features"))
    found = tensors.get("linear.weight")
    if found is None or found.shape != shape:
        have = ", ".join(f"{name} {tensor.shape}" for name, tensor in tensors.items())
        raise UserError(f"{folder}: must hold linear.weight {shape}, as its config.json says; it holds {have}.")
    check_floating("linear.weight", found.dtype, str(folder))
    kernel = found.rows_f32(0, found.shape[0])
    check_finite("linear.weight", [kernel], str(folder))
    return np.ascontiguousarray(kernel.T)


def _with_settings(directory: pathlib.Path, layout: SentenceLayout, unread: list[str]) -> SentenceLayout:
    """Adds length, prompts and similarity."""
    values = optional_object(directory / CONFIG_FILE)
    lengths = optional_object(directory / LENGTH_FILE)
    length = lengths.get("max_seq_length") or optional_object(directory / "tokenizer_config.json").get(
        "model_max_length"
    )
    if not isinstance(length, int | float) or isinstance(length, bool) or not 0 < length <= _UNLIMITED:
        length = 0
    if lengths.get("do_lower_case"):
        unread.append("lower case before the tokenizer (do_lower_case)")
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{directory / CONFIG_FILE}: 'prompts' must be names and texts, but is {prompts!r:.80}.")
    usual = prompts.get(str(values.get("default_prompt_name"))) or ""
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name) is not None), None)
    query = prompts.get("query")
    similarity = values.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        unread.append(f"the similarity {similarity}")
    return dataclasses.replace(
        layout,
        # Cosines are those of vectors of length 1, whether a module makes them so or not.
        normalize=layout.normalize or similarity == "cosine",
        prompts={
            "query": usual if query is None else query,
            "document": usual if document is None else document,
        },
        max_length=int(length),
        similarity=similarity,
    )


def optional_object(path: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON object in a file; empty where there is no file."""
    return json_object(path) if path.is_file() else {}


def _pooling_values(width: int, pooling: str) -> dict[str, Any]:
    values: dict[str, Any] = {"word_embedding_dimension": width}
    values |= {old: ours == pooling for ours, (_, old) in _POOLINGS.items()}
    values |= dict.fromkeys(_OTHER_POOLINGS, False)
    return {**values, "include_prompt": True}


def write_dense(folder: pathlib.Path, number: int, projection: np.ndarray, **more: Any) -> None:
    """Writes a linear map without bias, `projection` f32 [D, P], as module `number`; `more` are further settings."""
    width, size = projection.shape
    values = {"in_features": width, "out_features": size, "bias": False, "activation_function": IDENTITY, **more}
    inside = write_module(folder, number, "Dense", values)
    kernel = np.asarray(projection, np.float32).T
    write_f32(inside / "model.safetensors", {"linear.weight": (size, width)}, lambda _: [kernel])


def write_module(folder: pathlib.Path, number: int, kind: str, values: Mapping[str, Any]) -> pathlib.Path:
    """Writes a module's configuration, a folder without files being lost by git and by hubs."""
    inside = folder / f"{number}_{kind}"
    inside.mkdir(parents=True, exist_ok=True)
    files.write_json(inside / "config.json", dict(values))
    return inside


def _write_module_list(folder: pathlib.Path, kinds: list[str]) -> None:
    listed = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": _TYPES + kind}
        for number, kind in enumerate(kinds)
    ]
    files.write_json(folder / MODULES_FILE, listed)
