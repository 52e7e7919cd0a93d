"""Low-rank updates in the form of the `peft` library: adapter_config.json and adapter_model.safetensors.

Keys are those of peft's LoraConfig, tensor names those that its save_pretrained gives (peft 0.21).
"""

# R rank, I inputs, O outputs, L layers

import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Origin
from jaxfm.errors import UserError
from jaxfm.families.registry import family
from jaxfm.families.tensors import Tensor
from jaxfm.hub.locate import SCHEMES, locate

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapter_model.safetensors"
# Kind of head -> peft's TaskType.
_TASK_TYPES = {"token_classes": "TOKEN_CLS", "sequence_classes": "SEQ_CLS"}
_INSIDE = "base_model.model."


def base_model(encoder: EncoderConfig, init: str, origin: Origin | None = None) -> tuple[str, str]:
    """Returns name and revision of the base model in adapter_config.json, for a run that started from `init`, a URI.

    Raises:
      UserError: a run without low-rank updates, one that did not start from a directory of transformers, or one whose
        vocabulary has grown since.
    """
    if not encoder.lora_rank:
        raise UserError("--format=peft: the run was not trained with config.adapt.lora.rank. Take --format=hf.")
    if origin is not None and origin.vocab_size != encoder.vocab_size:
        raise UserError(
            f"--format=peft: the vocabulary has {encoder.vocab_size:,} entries, that of the base model {init!r} "
            f"{origin.vocab_size:,}: low-rank updates do not hold the new rows. Take --format=hf."
        )
    scheme, _, rest = init.partition(":")
    if scheme == "hf":
        name, _, revision = rest.partition("@")
        return name, origin.revision if origin is not None and origin.revision else revision
    if scheme not in SCHEMES:
        raise UserError(
            f"--format=peft: the run started from {init!r}, which is no base model that peft could open. Take "
            "--format=hf, or export that run and start from dir:PATH."
        )
    return str(locate(init, "config.model.init").absolute()), ""


def write_adapter(
    folder: pathlib.Path,
    merged: pathlib.Path,
    encoder: EncoderConfig,
    params: Mapping[str, np.ndarray],
    base: tuple[str, str],
) -> None:
    """Writes what peft's PeftModel.from_pretrained opens over the base model: low-rank updates and the whole head.

    Args:
      folder: where to.
      merged: folder of the task's export for transformers. The head's tensors, the config with the names of the
        classes, and the tokenizer are taken from there.
      encoder: with its low-rank updates.
      params: path -> array, not merged.
      base: name or path of the base model, and its revision ("": the newest, or none).

    Raises:
      UserError: a head that peft has no task for.
    """
    config = files.read_json(merged / "config.json")
    (architecture,) = config["architectures"]
    own = family(encoder.family)
    task_type = _TASK_TYPES.get(own.kind_of(architecture))
    if task_type is None:
        raise UserError(
            f"--format=peft: peft has no task for {architecture}; it has for classes of tokens and of texts. Take "
            "--format=hf, which merges the low-rank updates into the weights."
        )
    table = own.encoder_tensors()
    updates, ranks = _updates(encoder, params, table)
    with (merged / "model.safetensors").open("rb") as file:
        tensors = safetensors.numpy.load(file.read())
    inside = {name for tensor in table.values() for name in tensor.names(encoder.layer_stacks)}
    head = {name: value for name, value in tensors.items() if name not in inside}
    modules = sorted({_module(name, own.prefix) for name in head})
    values = _config(encoder, base, task_type, modules, table, ranks)
    files.write_json(folder / ADAPTER_CONFIG, values)
    with files.atomic_write(folder / ADAPTER_TENSORS, binary=True) as file:
        kept = {f"{_INSIDE}{name}": np.ascontiguousarray(value) for name, value in (updates | head).items()}
        file.write(safetensors.numpy.save(kept, metadata={"format": "pt"}))
    for path in merged.iterdir():
        if path.name != "model.safetensors":
            shutil.copy2(path, folder)


def _updates(
    encoder: EncoderConfig, params: Mapping[str, np.ndarray], table: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Returns the updates' tensors under transformers' names, and the ranks that are not `lora_rank`.

    Where one tensor holds several of our maps (ModernBERT's Wqkv), their updates become one of the sum of their ranks:
    the rows of A are stacked, and the columns of B stand at the outputs of their map.
    """
    ours: dict[str, list[tuple[Tensor, np.ndarray, np.ndarray]]] = {}
    for path in sorted(path for path in params if path.endswith("/lora/a")):
        base = path.removesuffix("/lora/a")
        tensor = table[f"{base}/kernel"]
        if tensor.by_head:
            raise UserError(
                f"--format=peft: {tensor.name} of a {encoder.family} encoder holds several maps head by head, of which "
                "peft cannot update one. Take --format=hf, which merges the low-rank updates into the weights."
            )
        a, b = params[f"{base}/lora/a"], params[f"{base}/lora/b"]
        a_LRI = np.swapaxes(a.reshape(len(a), -1, encoder.lora_rank), 1, 2)
        b_LOR = np.swapaxes(b.reshape(len(b), encoder.lora_rank, -1), 1, 2)
        ours.setdefault(tensor.name, []).append((tensor, a_LRI, b_LOR))
    found: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for name, parts in ours.items():
        tensor, _, b_LOR = parts[0]
        layers, outputs, rank = b_LOR.shape
        whole_LOR = np.zeros((layers, tensor.parts * outputs, len(parts) * rank), b_LOR.dtype)
        for index, (part, _, b_LOR) in enumerate(parts):
            rows = slice(part.part * outputs, (part.part + 1) * outputs)
            whole_LOR[:, rows, index * rank : (index + 1) * rank] = b_LOR
        whole_LRI = np.concatenate([a_LRI for _, a_LRI, _ in parts], axis=1)
        for layer, full in enumerate(tensor.names(encoder.layer_stacks)):
            module = full.removesuffix(".weight")
            found |= {f"{module}.lora_A.weight": whole_LRI[layer], f"{module}.lora_B.weight": whole_LOR[layer]}
        if len(parts) > 1:
            ranks[name.removesuffix(".weight")] = len(parts) * rank
    return found, ranks


def _config(
    encoder: EncoderConfig,
    base: tuple[str, str],
    task_type: str,
    modules: list[str],
    table: Mapping[str, Tensor],
    ranks: Mapping[str, int],
) -> dict[str, Any]:
    """The keys of peft's LoraConfig; those left out keep defaults that have no effect."""
    kernels = {path.rpartition("/")[0].rpartition("/")[2]: tensor for path, tensor in table.items() if "kernel" in path}
    names = sorted({_pattern(kernels[target].name.removesuffix(".weight")) for target in encoder.lora_targets})
    # alpha / rank stays the factor, whatever the rank.
    factor = encoder.lora_alpha / encoder.lora_rank
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base[0],
        "revision": base[1] or None,
        "inference_mode": True,
        "r": encoder.lora_rank,
        "lora_alpha": encoder.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": f"(?:{'|'.join(names)})",
        "modules_to_save": modules,
        "rank_pattern": {_pattern(name): rank for name, rank in ranks.items()},
        "alpha_pattern": {_pattern(name): factor * rank for name, rank in ranks.items()},
    }


def _pattern(name: str) -> str:
    """Returns a regular expression for a module's name in any layer."""
    return re.escape(name).replace(r"\{\}", r"\d+")


def _module(tensor: str, prefix: str) -> str:
    """Returns the outermost module of the head that a tensor belongs to: "classifier", "bert.pooler"."""
    outer = prefix if tensor.startswith(prefix) else ""
    return outer + tensor.removeprefix(outer).partition(".")[0]
