"""The layouts of a vector a token: that of sentence-transformers 6 (MultiVectorEncoder), and PyLate's before it.

Both list a transformer and a linear map in modules.json. sentence-transformers has modules for what is compared and for
lengths of 1; PyLate has their settings in config_sentence_transformers.json and always computes both. Sources:
multi_vector_encoder/ and base/modules/ of sentence-transformers 6.2.0; models/colbert.py and models/Dense.py of PyLate.
"""

import dataclasses
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.initial import HostArray, SentenceLayout, TokenLayout
from jaxfm.errors import UserError
from jaxfm.hub.sentence_transformers import (
    CONFIG_FILE,
    LENGTH_FILE,
    MODULES_FILE,
    ROLES,
    dense_form_problem,
    dense_kernel,
    module_values,
    modules_of,
    optional_object,
    write_dense,
    write_module,
)

# Modules, and the first version that has them.
_MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "Dense": "sentence_transformers.base.modules.dense",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask",
    "Normalize": "sentence_transformers.base.modules.normalize",
}
_VERSION = "6.0.0"
_TOKENS = "token_embeddings"
# Keys by which PyLate's configuration is known, and what it does where they are absent or null.
_PYLATE: Mapping[str, Any] = {
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 32,
    "document_length": 180,
    "do_query_expansion": True,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(string.punctuation),
}
_LONGEST = 10_000_000  # tokens of a text
_EXPANSIONS = {False: "unattended", True: "attended"}  # by whether other tokens attend to the mask tokens


def write_multi_vector(
    folder: pathlib.Path,
    *,
    projection: np.ndarray,
    prompts: Mapping[str, str],
    lengths: Mapping[str, int],
    expansion: str = "none",
    skipped: Sequence[str] = (),
) -> None:
    """Writes what `MultiVectorEncoder(folder)` (version 6 and later) reads beside the files of a transformer.

    Args:
      folder: with the transformer's files, of `hub.export.write_model` with `head=""`.
      projection: f32 [D, P] of the linear map without bias of each token; vectors have length 1 after it.
      prompts: "query" and "document" -> what is put before such a text.
      lengths: "query" and "document" -> tokens of such a text that are read.
      expansion: what fills short queries up to their length: "none", or "attended" or "unattended" mask tokens.
      skipped: tokens of documents that are not compared.
    """
    write_dense(folder, 1, projection, module_input_name=_TOKENS, module_output_name=_TOKENS)
    mask = {"skiplist_words": list(skipped), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write_module(folder, 2, "MultiVectorMask", mask)
    write_module(folder, 3, "Normalize", {"module_input_name": _TOKENS, "module_output_name": _TOKENS})
    listed = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": f"{module}.{kind}"}
        for number, (kind, module) in enumerate(_MODULES.items())
    ]
    files.write_json(folder / MODULES_FILE, listed)
    of_texts: dict[str, Any] = {f"{role}_length": lengths[role] for role in ROLES}
    if expansion != "none":
        attend = expansion == _EXPANSIONS[True]
        of_texts["query_expansion"] = {"strategy": "fixed", "attend": attend, "token": None, "length": lengths["query"]}
    files.write_json(folder / LENGTH_FILE, of_texts)
    files.write_json(
        folder / CONFIG_FILE,
        {
            "model_type": "MultiVectorEncoder",
            "__version__": {"sentence_transformers": _VERSION},
            "prompts": {role: prompts.get(role, "") for role in ROLES},
            "default_prompt_name": None,
            "similarity_fn_name": "maxsim",
        },
    )


def read_multi_vector(directory: pathlib.Path) -> tuple[SentenceLayout, dict[str, HostArray]] | None:
    """Returns how a directory makes a vector a token, and its linear map "projection/kernel" [D, P].

    None for a directory without modules.json, or one whose modules make a vector a text. What jaxfm does not compute is
    named in `TokenLayout.unread`.

    Raises:
      UserError: a file that is damaged, or absent though modules.json names it.
    """
    if not (directory / MODULES_FILE).is_file():
        return None
    values, modules = optional_object(directory / CONFIG_FILE), modules_of(directory)
    pylate = values.get("model_type") == "ColBERT" or any(name in values for name in _PYLATE)
    if not pylate and not any(kind == "MultiVectorMask" for kind, _ in modules):
        return None
    unread: list[str] = []
    params: dict[str, HostArray] = {}
    mask: Mapping[str, Any] = {}
    for number, (kind, path) in enumerate(modules):
        if kind == "Transformer" and not path and not number:
            continue
        if kind == "Dense":
            params |= _projection(directory, path, params, unread)
        elif kind == "MultiVectorMask" and not mask:
            mask = module_values(directory, path)
        elif kind != "Normalize" and not (pylate and kind == "Pooling"):  # PyLate leaves a pooling out
            unread.append(f"the module {kind}" if kind != "Transformer" else f"a transformer in the subfolder {path!r}")
    if not params and not unread:
        unread.append("no linear map (a Dense module)")
    if not pylate and not any(kind == "Normalize" for kind, _ in modules):
        unread.append("vectors that are not of length 1")
    prompts = _prompts(directory, values)
    if pylate:
        layout, prompts = _of_pylate(directory, values, prompts)
    else:
        layout = _of_modules(optional_object(directory / LENGTH_FILE), mask, unread, directory / LENGTH_FILE)
    layout = dataclasses.replace(layout, unread=(*layout.unread, *unread))
    sentence = SentenceLayout(normalize=True, prompts=prompts, unread=("a vector a token",), tokens=layout)
    return sentence, params


def _projection(
    directory: pathlib.Path, path: str, params: Mapping[str, HostArray], unread: list[str]
) -> dict[str, HostArray]:
    """Returns the linear map of a Dense module; nothing and an entry in `unread` for one that jaxfm has not."""
    values = module_values(directory, path)
    problem = "more than one Dense module" if params else dense_form_problem(values)
    if values.get("module_input_name", _TOKENS) != _TOKENS:
        problem = "a Dense module that is not over tokens"
    if problem:
        unread.append(problem)
        return {}
    return {"projection/kernel": dense_kernel(directory / path, values)}


def _prompts(directory: pathlib.Path, values: Mapping[str, Any]) -> dict[str, str]:
    found = values.get("prompts") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str | None) for text in found.values()):
        raise UserError(f"{directory / CONFIG_FILE}: 'prompts' must be names and texts, but is {found!r:.80}.")
    return {role: found.get(role) or "" for role in ROLES}


def _of_pylate(
    directory: pathlib.Path, values: Mapping[str, Any], prompts: Mapping[str, str]
) -> tuple[TokenLayout, dict[str, str]]:
    """Reads PyLate's settings; its prefixes are tokens of the vocabulary, put before what a prompt adds."""
    settings = {name: default if values.get(name) is None else values[name] for name, default in _PYLATE.items()}
    for name, default in _PYLATE.items():
        if type(settings[name]) is not type(default):
            raise UserError(
                f"{directory / CONFIG_FILE}: {name!r} is {settings[name]!r:.80}, but must be of type "
                f"{type(default).__name__}."
            )
    prefixes = {role: settings[f"{role}_prefix"] for role in ROLES}
    expansion = _EXPANSIONS[settings["attend_to_expansion_tokens"]] if settings["do_query_expansion"] else "none"
    layout = TokenLayout(
        lengths={
            role: _length(settings[f"{role}_length"], f"{role}_length", directory / CONFIG_FILE) for role in ROLES
        },
        expansion=expansion,
        skipped=tuple(map(str, settings["skiplist_words"])),
        markers=tuple(dict.fromkeys(prefix for prefix in prefixes.values() if prefix.strip())),
    )
    return layout, {role: prefix + prompts[role].removeprefix(prefix) for role, prefix in prefixes.items()}


def _length(value: Any, key: str, where: pathlib.Path) -> int:
    """Returns a number of tokens. Raises UserError for any other value."""
    if type(value) is not int or not 0 < value <= _LONGEST:
        raise UserError(f"{where}: {key!r} is {value!r:.80}, but a length is a whole number from 1 to {_LONGEST:,}.")
    return value


def _of_modules(
    of_texts: Mapping[str, Any], mask: Mapping[str, Any], unread: list[str], where: pathlib.Path
) -> TokenLayout:
    """Reads the settings of the transformer's module, the file `where`, and of the one that says what is compared."""
    if mask.get("keep_only_token_ids"):
        unread.append("an allowlist of tokens that are compared (keep_only_token_ids)")
    if mask.get("skiplist_words") and mask.get("skiplist_tasks", ["document"]) != ["document"]:
        unread.append(f"tokens that are skipped in {mask['skiplist_tasks']}")
    keys = {role: f"{role}_length" for role in ROLES if of_texts.get(f"{role}_length")}
    lengths = {role: _length(of_texts[key], key, where) for role, key in keys.items()}
    expansion, kind = of_texts.get("query_expansion"), "none"
    if expansion:
        if not isinstance(expansion, dict):
            raise UserError(f"{where}: 'query_expansion' is {expansion!r:.80}, but must be an object.")
        kind = _EXPANSIONS[bool(expansion.get("attend"))]
        own = expansion.get("length")
        lengths["query"] = _length(own, "query_expansion", where) if own else lengths.get("query", 0)
        if expansion.get("strategy") != "fixed" or expansion.get("token"):
            unread.append(f"a query expansion of another kind ({expansion})")
    skipped = mask.get("skiplist_words") or []
    if not isinstance(skipped, list):
        raise UserError(f"{where.parent}: 'skiplist_words' is {skipped!r:.80}, but must be a list of words.")
    return TokenLayout(lengths, kind, tuple(map(str, skipped)))
