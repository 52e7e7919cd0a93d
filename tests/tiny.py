"""Runs that take seconds: a generated corpus, tagged or as plain text, a two-layer BERT of random weights, configs."""

import dataclasses
import json
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.batch import Field, Volume
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.initial import HostArray, StoredArray
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.text.packing import text_fields
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.weights import write_tensors
from jaxfm.models.heads import MaskedLM, TokenClassifier
from jaxfm.parallel.mesh import initialise
from jaxfm.schema import to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.state import TrainState
from tests.tiny_records import (  # noqa: F401  the records of these runs, for tests that write some of their own
    FILLERS,
    NAMES,
    SIZES,
    Sentence,
    relations,
    sentences,
    text_groups,
    write_audio,
    write_examples,
    write_groups,
    write_images,
    write_nested,
    write_questions,
    write_relations,
    write_text_pairs,
)

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS)
# Names are spelled in letters: several pieces a word, and room for any word of letters.
VOCABULARY = (*PIECES, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase))
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
# 96 rows for the 69 entries of the vocabulary: they can be cut over two and four devices.
ENCODER = EncoderConfig(
    family="bert",
    vocab_size=96,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    ffn_size=64,
    max_positions=64,
    initializer_range=0.1,
)
# Options of a compilation as users have it: for tests of what two programs have in common to the last bit, or of what
# is in a program. The others compile faster (tests/conftest.py).
AS_USERS_COMPILE = {"xla_cpu_use_fusion_emitters": True}


def write_conll(path: pathlib.Path, content: Sequence[Sentence], *, documents: int = 0) -> None:
    """Writes sentences, with a document mark before every `documents` of them."""
    lines: list[str] = []
    for number, (words, tags) in enumerate(content):
        if documents and number % documents == 0:
            lines += ["-DOCSTART- O", ""]
        lines += [*(f"{word} {tag}" for word, tag in zip(words, tags, strict=True)), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_corpus(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES, *, documents: int = 0) -> str:
    """Writes a folder of splits; returns its URI."""
    for seed, (split, count) in enumerate(sizes.items()):
        write_conll(directory / f"{split}.conll", sentences(count, seed), documents=documents)
    return f"conll:{directory}"


def write_text(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of plain text of so many sentences a split, two a document; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        lines = [" ".join(words) for words, _ in sentences(count, seed)]
        documents = ["\n".join(lines[first : first + 2]) for first in range(0, count, 2)]
        (directory / f"{split}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return f"text:{directory}"


CONLL_2003 = "-DOCSTART- -X- -X- O\n\n" + "".join(
    f"Ada{i} NNP B-NP B-PER\nsaid VBD B-VP O\nRome NNP B-NP B-LOC\n\n"
    + ("-DOCSTART- -X- -X- O\n\n" if i % 4 == 3 else "")
    for i in range(40)
)


def prepare_conll2003(directory: pathlib.Path) -> pathlib.Path:
    """tfds' own conll2003, prepared by its own builder from files of the same columns instead of its download."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text.conll2003.conll2003  # noqa: F401  registers the builder

    raw, prepared = directory / "raw", directory / "prepared"
    raw.mkdir()
    for name, text in (("train", CONLL_2003), ("valid", CONLL_2003[:400].rsplit("\n\n", 1)[0]), ("test", CONLL_2003)):
        (raw / f"{name}.txt").write_text(text + "\n\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: raw)
        tfds.builder("conll2003", data_dir=prepared).download_and_prepare(file_format="array_record")
    return prepared


def random_params(encoder: EncoderConfig, classes: int, seed: int) -> dict[str, np.ndarray]:
    """Path -> array of an encoder and a token classifier; no bias is 0 and no scale is 1, so that a mix-up shows."""
    return drawn(lambda: TokenClassifier(encoder, classes, DEFAULT_BUILD, nnx.Rngs(0)), encoder, seed)


def random_masked_lm(encoder: EncoderConfig, seed: int) -> dict[str, np.ndarray]:
    """The same of an encoder and a masked-LM head."""
    return drawn(lambda: MaskedLM(encoder, DEFAULT_BUILD, nnx.Rngs(0)), encoder, seed)


def drawn(make: Callable[[], nnx.Module], encoder: EncoderConfig, seed: int) -> dict[str, np.ndarray]:
    """The same of any model over an encoder."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: initialise(make))
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    made = {
        name: (name.endswith("scale") + encoder.initializer_range * draw.standard_normal(shape.shape)).astype(
            np.float32
        )
        for name, shape in flat.items()
    }
    for name in filter(has_padded_rows, made):
        made[name][encoder.vocab_size :] = 0
    return made


def nested(params: Mapping[str, HostArray]) -> dict[str, Any]:
    """Path -> array as nested dicts; those in files are read."""
    stored = {path: np.asarray(value) for path, value in params.items() if isinstance(value, StoredArray)}
    return flax.traverse_util.unflatten_dict({**params, **stored}, sep="/")


def write_weights(
    directory: pathlib.Path, encoder: EncoderConfig = ENCODER, labels: Sequence[str] = (), seed: int = 7
) -> str:
    """Writes a Hugging Face directory of random weights, whose head is used only with `labels`; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(
        directory / "model.safetensors", encoder, "token_classes", random_params(encoder, max(len(labels), 1), seed)
    )
    values = hf_config(encoder, head="token_classes", pad_token_id=0, labels=tuple(labels))
    (directory / "config.json").write_text(json.dumps(values))
    return write_tokenizer(directory)


def write_masked_lm_weights(directory: pathlib.Path, encoder: EncoderConfig = ENCODER, seed: int = 7) -> str:
    """Writes a Hugging Face directory of random weights with a masked-LM head; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "model.safetensors", encoder, "vocabulary", random_masked_lm(encoder, seed))
    values = hf_config(encoder, head="vocabulary", pad_token_id=0, labels=())
    (directory / "config.json").write_text(json.dumps(values))
    return write_tokenizer(directory)


def write_tokenizer(directory: pathlib.Path) -> str:
    """Writes the tokenizer files of VOCABULARY; returns the directory's URI."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return f"dir:{directory}"


def config(directory: pathlib.Path, **overrides: Any) -> Config:
    """A checked config over the corpus and weights in `directory`, made at the first call; keys as `train__steps=4`."""
    values = default_config("ner")
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True  # compiles faster
    values.data.source = f"conll:{directory / 'corpus'}"
    values.data.row_length = 48
    values.task.overlap = 8
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "f1"  # what the task would choose, for tests without a whole run
    values.log.every_steps = 2
    if not (directory / "corpus").exists():
        write_corpus(directory / "corpus")
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return replaced(from_config_dict(values), **overrides)


def masked_lm_config(directory: pathlib.Path, task: str = "masked_lm", **overrides: Any) -> Config:
    """The same for objectives over running text, and weights that have a masked-LM head."""
    values = default_config(task)
    values.model.init = f"dir:{directory / 'masked_lm'}"
    values.model.scan_layers = True
    values.data.source = f"text:{directory / 'text'}"
    values.data.cache = str(directory / "cache")
    values.data.row_length = 48
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "loss"
    values.log.every_steps = 2
    if not (directory / "text").exists():
        write_text(directory / "text")
    if not (directory / "masked_lm").exists():
        write_masked_lm_weights(directory / "masked_lm")
    return replaced(from_config_dict(values), **overrides)


def classification_config(
    directory: pathlib.Path, kind: str = "single", *, pairs: bool = False, **overrides: Any
) -> Config:
    """The same for classification of the kind, over texts or pairs."""
    values = default_config("classification")
    folder = f"{kind}_pairs" if pairs else kind
    values.task.kind = kind
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / folder}"
    values.data.row_length = 48
    if pairs:
        values.data.text_column, values.data.pair_column = "text", "pair"
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = {"single": "accuracy", "multi": "micro_f1", "regression": "pearson"}[kind]
    values.log.every_steps = 2
    if not (directory / folder).exists():
        write_examples(directory / folder, kind, pairs=pairs)
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return replaced(from_config_dict(values), **overrides)


def qa_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for questions."""
    values = default_config("qa")
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / 'questions'}"
    values.data.row_length = 48
    values.task.overlap = 18  # no name is longer, so that each lies whole in a window
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "f1"
    values.log.every_steps = 2
    if not (directory / "questions").exists():
        write_questions(directory / "questions")
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return replaced(from_config_dict(values), **overrides)


def relations_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for relations between two entities."""
    values = default_config("relations")
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / 'relations'}"
    values.data.row_length = 48
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "macro_f1"
    values.log.every_steps = 2
    if not (directory / "relations").exists():
        write_relations(directory / "relations")
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return replaced(from_config_dict(values), **overrides)


def embedding_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for vectors of texts."""
    return groups_config(directory, "embedding", **overrides)


def groups_config(directory: pathlib.Path, task: str, **overrides: Any) -> Config:
    """The same for a task over groups of texts."""
    values = default_config(task)
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / 'groups'}"
    values.data.row_length = 48
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "ndcg@10"
    values.log.every_steps = 2
    if not (directory / "groups").exists():
        write_groups(directory / "groups")
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return replaced(from_config_dict(values), **overrides)


def replaced(values: Config, **overrides: Any) -> Config:
    """Returns the config with other values; keys as `train__steps=4`."""
    nested = to_dict(values)
    for key, value in overrides.items():
        *groups, name = key.split("__")
        group = nested
        for part in groups:
            group = group[part]
        group[name] = value
    return from_config_dict(nested)


def write_run(workdir: pathlib.Path, ner: Config, *, best: int) -> dict[int, dict[str, np.ndarray]]:
    """Writes the directory of a run of NER that was never trained; returns path -> array of its checkpoints 1 and 2."""
    task, _ = registry.create(ner, resolve(ner.model))
    workdirs.write_config(workdir, ner)
    task.save(workdir)
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR, keep_last=2)
    made = {step: random_params(ENCODER, len(LABELS), seed=20 + step) for step in (1, 2)}
    for step, params in made.items():
        arrays = jax.tree.map(jnp.asarray, nested(params))
        state = TrainState(jnp.int32(step), arrays, {"count": jnp.int32(step)}, jnp.zeros(2, jnp.uint32))
        meta = {"fingerprint": "", "best": {"step": best, "value": 0.5, "waited": 0}, "goodput": {}}
        checkpoints.save(state, {"loss": jnp.zeros(2)}, meta, keep=(best,))
    checkpoints.close()
    return made


def batch_of(rows: Any, count: int, first: int = 0) -> dict[str, np.ndarray]:
    """Rows `first` .. `first + count` of packed rows as a batch on the host."""
    return rows.take(np.arange(first, first + count))


def text_dataset(arrays: Mapping[str, np.ndarray], pad_id: int = 0) -> ArrayDataset:
    """A dataset of arrays [N, T] of text; positions count from 0 in each row where none are given."""
    length = arrays["tokens"].shape[1]
    fields = text_fields(length, pad_id)
    given = {"positions": np.broadcast_to(np.arange(length), arrays["tokens"].shape), **arrays}
    useful = np.count_nonzero(given["segment_ids"]) / max(len(given["tokens"]), 1)
    spec = {name: fields.get(name, Field((length,), fill=-1, axes=("tokens",))) for name in given}
    return ArrayDataset(
        {name: np.asarray(values, np.int32) for name, values in given.items()}, spec, Volume("tokens", length, useful)
    )


def with_dropout(encoder: EncoderConfig, rate: float) -> EncoderConfig:
    """The encoder with another dropout everywhere."""
    return dataclasses.replace(encoder, dropout=rate, attention_dropout=rate)


def seq2seq_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for a model that writes texts, over pairs and weights that have a masked-LM head."""
    values = default_config("seq2seq")
    values.model.init = f"dir:{directory / 'masked_lm'}"
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / 'text_pairs'}"
    values.data.row_length = 48
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "loss"
    values.log.every_steps = 2
    if not (directory / "text_pairs").exists():
        write_text_pairs(directory / "text_pairs")
    if not (directory / "masked_lm").exists():
        write_masked_lm_weights(directory / "masked_lm")
    return replaced(from_config_dict(values), **overrides)


def nested_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for entities inside each other."""
    values = _spans_values("nested_ner", directory)
    values.data.source = f"jsonl:{directory / 'nested'}"
    values.task.threshold = 0.2  # random weights find something
    if not (directory / "nested").exists():
        write_nested(directory / "nested")
    return replaced(from_config_dict(values), **overrides)


def zero_shot_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The same for entities whose types are texts."""
    values = _spans_values("zero_shot_ner", directory)
    values.data.source = f"conll:{directory / 'data'}"
    if not (directory / "data").exists():
        write_corpus(directory / "data")
    return replaced(from_config_dict(values), **overrides)


def _spans_values(task: str, directory: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the values of a task that scores spans of words, but for its data; its weights are written."""
    values = default_config(task)
    values.model.init = f"dir:{directory / 'weights'}"
    values.model.scan_layers = True
    values.data.row_length = 48
    values.task.overlap = 8
    values.task.max_width, values.task.span_size = 3, 16
    values.optim.learning_rate = 1e-2
    values.train.batch_size = 4
    values.train.steps = 8
    values.train.min_steps = 0  # tests that set epochs mean these
    values.eval.batch_size = 8
    values.eval.metric = "f1"
    values.log.every_steps = 2
    if not (directory / "weights").exists():
        write_weights(directory / "weights")
    return values


def image_config(directory: pathlib.Path, task: str = "image_classification", **overrides: Any) -> Config:
    """The same for tasks on images, over folders of tiny pictures, from scratch."""
    values = default_config(task)
    values.model.init, values.model.preset = "scratch", "vit_nano"
    values.model.scan_layers = True
    values.data.source = f"images:{directory / 'images'}"
    values.train.batch_size = 8
    values.train.steps = 12
    values.train.min_steps = 0
    values.eval.batch_size = 8
    values.eval.metric = "loss"
    values.log.every_steps = 4
    if not (directory / "images").exists():
        write_images(directory / "images")
    return replaced(from_config_dict(values), **overrides)


# Task of a finished run -> what makes its config.
CONFIGS: dict[str, Callable[[pathlib.Path], Config]] = {
    "ner": config,
    "nested_ner": nested_config,
    "zero_shot_ner": zero_shot_config,
    "classification": classification_config,
    "pairs": lambda directory: classification_config(directory, pairs=True),
    "multi": lambda directory: classification_config(directory, "multi"),
    "regression": lambda directory: classification_config(directory, "regression"),
    "qa": qa_config,
    "embedding": embedding_config,
    "late_interaction": lambda directory: groups_config(directory, "late_interaction"),
    "masked_lm": masked_lm_config,
    "replaced_token": lambda directory: masked_lm_config(directory, "replaced_token"),
    "seq2seq": seq2seq_config,
    "causal_lm": lambda directory: masked_lm_config(directory, "causal_lm"),
}


def write_runs(
    directory: pathlib.Path, names: Sequence[str] = tuple(CONFIGS), *, seed: int = 3
) -> dict[str, pathlib.Path]:
    """Writes a run of random weights for each name of `CONFIGS`, never trained; returns name -> run directory."""
    runs = {}
    for name in names:
        made = CONFIGS[name](directory)
        task, _ = registry.create(made, resolve(made.model))
        runs[name] = directory / f"run_{name}"
        workdirs.write_config(runs[name], made)
        task.save(runs[name])
        params = drawn(lambda task=task: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), ENCODER, seed)
        checkpoints = Checkpoints(runs[name] / workdirs.CHECKPOINTS_DIR)
        meta = {"fingerprint": "", "best": {"step": 1, "value": 0.5, "waited": 0}, "goodput": {}}
        checkpoints.save_params(1, jax.tree.map(jnp.asarray, nested(params)), meta)
        checkpoints.close()
    return runs
