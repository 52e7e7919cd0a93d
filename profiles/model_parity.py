"""Every family and head against transformers: the same files, the same numbers, in both directions.

  python -m profiles.model_parity --output=profiles/results/model_parity.json

Small random models of transformers' classes with wide weights, so that attention is sharp and every bias counts. One
batch holds texts in padded rows, in a row of full length, and packed with others. Needs torch.

in         largest difference of states or logits to transformers + torch, over the tokens of all texts
packed     largest difference of a text that stands alone in a row and the same text packed with others
out        largest difference of transformers' numbers for what jaxfm wrote and for what jaxfm read
bytes      all tensors that were written are those that were read, bit for bit, but for those that no class reads
"""

# B rows, T tokens, D model

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.family import Family
from jaxfm.families.models import KINDS, parameter_shapes
from jaxfm.families.registry import FAMILIES
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.tensor_files import renamed
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import SequenceClassifier
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.kernels import AttentionProblem, unsupported_by_all, unsupported_reasons
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel import mesh as meshes
from profiles import command_line, quality

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")
FULL = 40  # tokens: the longest text that the models below take
# The lengths of the texts, and the rows in which they stand: alone, padded, and packed with others.
LENGTHS = (FULL, 24, 13, 1, 24)
ROWS = ((0,), (1,), (2,), (4, 2, 3))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_NO_IDS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))


@dataclasses.dataclass(frozen=True)
class Case:
    """How a small model of a family is made.

    Attributes:
      config: transformers' class of its configuration.
      values: what the family has differently.
      pad: number of the padding token.
    """

    config: str
    values: Mapping[str, Any]
    pad: int = 0


_POSITIONS = {"max_position_embeddings": FULL}
_FROM_TWO = {"max_position_embeddings": FULL + 2}
_LLAMA = {**_POSITIONS, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None}
CASES: Mapping[str, Case] = {
    "bert": Case("BertConfig", {**_POSITIONS, "type_vocab_size": 2}),
    "roberta": Case("RobertaConfig", {**_FROM_TWO, "type_vocab_size": 1, "layer_norm_eps": 1e-5}, pad=1),
    "xlm-roberta": Case("XLMRobertaConfig", {**_FROM_TWO, "type_vocab_size": 1, "layer_norm_eps": 1e-5}, pad=1),
    "camembert": Case("CamembertConfig", {**_FROM_TWO, "type_vocab_size": 1, "layer_norm_eps": 1e-5}, pad=1),
    "electra": Case("ElectraConfig", {**_POSITIONS, "type_vocab_size": 2, "embedding_size": 16}),
    # Layers 0 and 3 see all, the others three tokens on either side; ids of special tokens as in no small vocabulary.
    "modernbert": Case(
        "ModernBertConfig", {**_POSITIONS, "num_hidden_layers": 5, "local_attention": 6, "norm_eps": 1e-4, **_NO_IDS}
    ),
    # Windows of two tokens before each, and itself.
    "modernbert-decoder": Case(
        "ModernBertDecoderConfig",
        {**_POSITIONS, "num_hidden_layers": 5, "local_attention": 6, "norm_eps": 1e-4, **dict.fromkeys(_NO_IDS, 1)},
    ),
    "distilbert": Case(
        "DistilBertConfig", {**_POSITIONS, "n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 48}
    ),
    "mpnet": Case("MPNetConfig", {**_FROM_TWO, "layer_norm_eps": 1e-5}, pad=1),
    "albert": Case(
        "AlbertConfig",
        {**_POSITIONS, "num_hidden_layers": 4, "num_hidden_groups": 2, "embedding_size": 16, "type_vocab_size": 2},
    ),
    "deberta-v2": Case(
        "DebertaV2Config",
        {
            **_POSITIONS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
            "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
        },
    ),
    "eurobert": Case("EuroBertConfig", {**_LLAMA, "hidden_act": "silu", "classifier_pooling": "bos"}),
    "esm": Case(
        "EsmConfig",
        {
            **_POSITIONS, "position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 7,
            "emb_layer_norm_before": False,
        },
        pad=1,
    ),
    "gemma3_text": Case(
        "Gemma3TextConfig",
        {
            **_LLAMA, "num_hidden_layers": 4, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6,
            "sliding_window_pattern": 3, "use_bidirectional_attention": True,
        },
    ),
}  # fmt: skip
VOCABULARY = 90


def heads(family: Family) -> dict[str, str]:
    """Returns kind -> suffix of transformers' class of each head; "" is the encoder alone."""
    return {"": "Model"} | {
        kind: head.suffix for kind, head in family.heads.items() if head.suffix not in ("", "Model")
    }


def their_models(name: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Returns kind -> a random model of transformers, all with the same weights of the encoder."""
    import torch
    import transformers

    case, family = CASES[name], FAMILIES[name]
    sizes = SIZES if name != "distilbert" else {}
    values = {"vocab_size": VOCABULARY, "pad_token_id": case.pad, **sizes, **case.values, **changes}
    named = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    models, shared = {}, None
    for kind, suffix in heads(family).items():
        config = getattr(transformers, case.config)(**values, **(named if kind.endswith("_classes") else {}))
        torch.manual_seed(seed)
        model = getattr(transformers, family.architecture + suffix)(config).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                scales = key.lower().endswith("norm.weight") and name != "gemma3_text"
                value.normal_(mean=1.0 if scales else 0.0, std=0.3)
            base = model.base_model
            shared = base.state_dict() if shared is None else shared
            base.load_state_dict({key: value for key, value in shared.items() if key in base.state_dict()})
        models[kind] = model
    return models


def texts(
    name: str, types: int = 0, vocabulary: int = VOCABULARY, lengths: Sequence[int] = LENGTHS
) -> dict[str, np.ndarray]:
    """Returns texts padded on the right, as transformers reads them: tokens, mask and, where there are, `types`."""
    draw, pad = np.random.default_rng(1), CASES[name].pad
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.asarray(lengths)[:, None]
    found = {
        "input_ids": np.where(mask, draw.integers(5, vocabulary, shape), pad),
        "attention_mask": mask.astype(np.int64),
    }
    return found | ({"token_type_ids": draw.integers(0, types, shape) * mask} if types > 1 else {})


def their_outputs(model: Any, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns states [E, T, D] or logits of all texts; of answers starts and ends together [E, T, 2]."""
    import torch

    with torch.no_grad():
        output = model(**{key: torch.from_numpy(value) for key, value in arrays.items()})
    if "start_logits" in output:
        return np.stack([output["start_logits"].numpy(), output["end_logits"].numpy()], axis=-1)
    return output[0].float().numpy()


def batch_of(arrays: Mapping[str, np.ndarray], rows: Sequence[Sequence[int]] = ROWS) -> dict[str, jax.Array]:
    """Returns the texts in the rows that say which of them stand in each."""
    lengths = arrays["attention_mask"].sum(axis=1)
    found = {name: np.zeros((len(rows), FULL), np.int32) for name in ("tokens", "segment_ids", "positions", "type_ids")}
    for row, members in enumerate(rows):
        start = 0
        for segment, text in enumerate(members, 1):
            place = slice(start, start + lengths[text])
            found["tokens"][row, place] = arrays["input_ids"][text, : lengths[text]]
            found["segment_ids"][row, place] = segment
            found["positions"][row, place] = np.arange(lengths[text])
            if "token_type_ids" in arrays:
                found["type_ids"][row, place] = arrays["token_type_ids"][text, : lengths[text]]
            start = place.stop
        assert start <= FULL
    return {name: jnp.asarray(value) for name, value in found.items()}


class _Given(nnx.Module):
    """Stands for an encoder whose states are known, so that one program computes all heads."""

    def __init__(self, embeddings: nnx.Module, inputs: Inputs):
        """`inputs` are those of `Encoder.encode`."""
        self.embeddings, self.inputs = embeddings, nnx.data(inputs)

    def __call__(self, batch: Any, *, key: None = None) -> jax.Array:
        """Returns the states [B, T, D]."""
        return self.inputs.x_BTD

    def encode(self, batch: Any, *, key: None = None) -> Inputs:
        """Returns states, segments and positions."""
        return self.inputs


def our_outputs(read: Mapping[str, Checkpoint], batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns kind -> states [B, T, D] or logits; of whole texts [B, S, C]. All have the encoder of kind ""."""
    compute, wanted = _program(read[""].encoder, tuple(read))
    params = {}
    for kind, checkpoint in read.items():
        own = checkpoint.params if kind else {k.removeprefix("encoder/"): v for k, v in checkpoint.params.items()}
        # A generator, which no checkpoint holds, is not computed either.
        missing = [path for path in wanted[kind] if path not in own and not path.startswith("generator/")]
        wrong = [path for path, shape in wanted[kind].items() if path in own and own[path].shape != shape]
        assert not missing and not wrong, (kind, missing, wrong)
        filled = {
            path: np.asarray(own[path]) if path in own else np.zeros(shape, np.float32)
            for path, shape in wanted[kind].items()
        }
        params[kind] = flax.traverse_util.unflatten_dict(filled, sep="/")
    return {kind: np.asarray(value) for kind, value in compute(params, batch).items()}


@functools.cache
def _program(encoder: EncoderConfig, kinds: tuple[str, ...]) -> tuple[Any, Mapping[str, Mapping[str, tuple[int, ...]]]]:
    """Returns what computes the outputs of all kinds from parameters and a batch, and the parameters' shapes."""

    def model(kind: str) -> nnx.Module:
        if kind == "sequence_classes":
            segments = max(map(len, ROWS))
            return SequenceClassifier(encoder, len(LABELS), DEFAULT_BUILD, nnx.Rngs(0), segments=segments)
        return KINDS[kind](encoder, len(LABELS)) if kind else Encoder(encoder, DEFAULT_BUILD, nnx.Rngs(0))

    graphs, wanted = {}, {}
    for kind in kinds:
        graphs[kind], abstract = meshes.build_abstract(lambda kind=kind: model(kind), meshes.make_mesh(MeshConfig()))
        flat: dict[str, Any] = flax.traverse_util.flatten_dict(abstract, sep="/")
        wanted[kind] = {path: leaf.shape for path, leaf in flat.items()}

    @jax.jit
    def compute(params: Any, batch: Any) -> dict[str, jax.Array]:
        encoded = nnx.merge(graphs[""], params[""])
        inputs = encoded.encode(batch)
        found = {"": inputs.x_BTD}
        for kind in filter(None, kinds):
            whole: Any = nnx.merge(graphs[kind], params[kind])
            whole.encoder = _Given(encoded.embeddings, inputs)
            if kind == "vocabulary":
                found[kind] = whole.logits(inputs.x_BTD)[..., : encoder.vocab_size]
            else:
                found[kind] = whole.replaced(batch) if kind == "replaced_tokens" else whole(batch)
        return found

    return compute, wanted


def by_text(
    outputs: np.ndarray, arrays: Mapping[str, np.ndarray], whole: bool
) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Yields of each text in each row: its number, whether it is packed with others, and its outputs there."""
    lengths = arrays["attention_mask"].sum(axis=1)
    for row, members in enumerate(ROWS):
        start = 0
        for segment, text in enumerate(members):
            stop = start + lengths[text]
            yield text, len(members) > 1, outputs[row, segment] if whole else outputs[row, start:stop]
            start = stop


def compare(name: str, folder: pathlib.Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """Returns kind -> the differences of a family, as the module's docstring has them; with `changes` of its config.

    Raises:
      AssertionError: a head that is not read, or not under the same encoder as the others.
    """
    models = their_models(name, **changes)
    arrays = texts(name, getattr(models[""].config, "type_vocab_size", 0) or 0)
    expected, read = {}, {}
    for kind, model in models.items():
        model.save_pretrained(folder / f"theirs_{kind}")
        read[kind] = read_checkpoint(folder / f"theirs_{kind}")
        assert read[kind].encoder == read[""].encoder and (not kind or kind in read[kind].heads), (
            kind,
            read[kind].notes,
        )
        expected[kind] = their_outputs(model, arrays)
    found = our_outputs(read, batch_of(arrays))
    result = {}
    for kind, values in found.items():
        theirs, alone = [], {}
        packed = 0.0
        whole = kind == "sequence_classes"
        for text, together, value in by_text(values, arrays, whole=whole):
            of_text = expected[kind][text] if whole else expected[kind][text, : len(value)]
            theirs.append(np.abs(value - of_text).max())
            packed = max(packed, np.abs(value - alone[text]).max()) if together and text in alone else packed
            alone.setdefault(text, value)
        result[kind] = {
            "class": type(models[kind]).__name__,
            "in": float(max(theirs)),
            "packed": float(packed),
            "spread": float(expected[kind].std()),
            "fused": kernels(read[kind].encoder),
            **written(name, kind, read[kind], folder, expected[kind], arrays),
        }
    return result


def written(
    name: str, kind: str, read: Checkpoint, folder: pathlib.Path, expected: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Writes what was read, opens it with transformers and returns the differences to what was read."""
    import safetensors.numpy

    target = folder / f"ours_{kind}"
    target.mkdir()
    again, info = opened(name, kind, read, target, output_loading_info=True)
    theirs = safetensors.numpy.load_file(folder / f"theirs_{kind}" / "model.safetensors")
    theirs = {renamed(key, FAMILIES[name].renamed): value for key, value in theirs.items()}
    ours = safetensors.numpy.load_file(target / "model.safetensors")
    unread = FAMILIES[name].head(kind, read.encoder).unread if kind else {}
    return {
        "out": float(np.abs(their_outputs(again, arrays) - expected).max()),
        "bytes": all(
            key in theirs and np.array_equal(value, theirs[key]) for key, value in ours.items() if key not in unread
        ),
        "left out": sorted(set(theirs) - set(ours)),
        "new": sorted(str(key) for found in info.values() for key in found),
    }


def opened(name: str, kind: str, read: Checkpoint, target: pathlib.Path, **more: Any) -> Any:
    """Writes encoder and head into a folder and returns what transformers' class makes of it (from_pretrained)."""
    import transformers

    labels = LABELS if kind.endswith("_classes") else ()
    values = hf_config(read.encoder, head=kind, pad_token_id=CASES[name].pad, labels=labels)
    head = FAMILIES[name].heads.get(kind)
    values |= {head.pooling_key: head.poolings["cls"]} if head is not None and head.pooling_key else {}
    (target / "config.json").write_text(json.dumps(values))
    paths = parameter_shapes(read.encoder, kind, len(LABELS)) if kind else read.params
    params = {path: value for path, value in read.params.items() if path in paths}
    write_tensors(target / "model.safetensors", read.encoder, kind, params)
    found = getattr(transformers, values["architectures"][0]).from_pretrained(target, **more)
    return (found[0].eval(), found[1]) if more else found.eval()


def kernels(encoder: EncoderConfig) -> list[str]:
    """Returns the fused kernels that compute the attention of rows of 512 tokens without dropout, in bf16."""
    found = []
    for platform in ("cuda", "tpu"):
        of_rows = AttentionProblem(
            platform, jnp.dtype(jnp.bfloat16), 512, 64, relative_positions=encoder.relative_positions
        )
        if unsupported_by_all(of_rows) is None:  # the GPU itself may be missing here
            reasons = unsupported_reasons(of_rows).items()
            found += [name for name, reason in reasons if reason is None or "compute capability" in reason]
    return found


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Lays out the differences: a head a row."""
    rows = []
    for name, kinds in results.items():
        for kind, found in kinds.items():
            numbers = [f"{found[key]:.0e}" if found[key] else "0" for key in ("in", "packed", "out")]
            same = "yes" if found["bytes"] else "no"
            paths = ", ".join(found["fused"]) or "none"
            rows.append(
                (f"`{name}`", f"`{found['class']}`", *numbers, same, paths)
                if not kind
                else ("", f"`{found['class']}`", *numbers, same, "")
            )
    columns = ("family", "class of transformers", "in", "packed", "out", "same bytes", "fused attention")
    return Table("Families", columns, rows)


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--families", default=",".join(CASES))
    arguments = parser.parse_args()
    names = arguments.families.split(",")
    for name in names:
        if name not in CASES:
            raise UserError(f"--families: {name!r} is not one of {', '.join(CASES)}. {did_you_mean(name, CASES)}")
    results = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = compare(name, pathlib.Path(folder))
        print(f"{name}: {max(found['in'] for found in results[name].values()):.1e}", flush=True)
    files.write_json(
        arguments.output, {"command": quality.shown_command(sys.argv), **quality.machine(), "families": results}
    )
    print(to_markdown(table(results)))


if __name__ == "__main__":
    command_line.run(main)
