"""The readers of what jaxfm itself wrote, or a person typed: runs, corpora, indexes, configs, arguments."""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.core.spec import SPEC_FILE, write_spec
from jaxfm.data.corpora.shards import MANIFEST, TOKEN_COUNTS, ShardedRows, write_manifest, write_shard
from jaxfm.data.corpora.vector_store import Identity, VectorStore, make_store
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import CALIBRATION_FILE, read_calibration
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.summary import headline, summary_table
from jaxfm.observe.writers import METRICS_FILE, read_metrics
from jaxfm.programs.from_trainer import convert
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.runs import runs
from jaxfm.tasks import registry
from jaxfm.training import retention
from jaxfm.training import workdir as workdirs
from jaxfm.training.saved_run import open_run
from profiles.faults import mutations
from profiles.faults.hub_readers import TINY
from profiles.faults.readers import BYTES, JSON, JSON_LINES, TEXT, Reader, texts

_TEXTS = dataclasses.replace(TINY, max_positions=512)
_PATCHES = dataclasses.replace(_TEXTS, family="vit", vocab_size=0, patches=PatchConfig(size=4, grid=(4, 4)))
_SOUNDS = dataclasses.replace(
    _PATCHES,
    family="audio-spectrogram-transformer",
    patches=PatchConfig(size=4, channels=1, mels=8, stride=(4, 4), grid=(2, 4)),
)
_SHAPES = (_TEXTS, _PATCHES, _SOUNDS)
_NO_SHAPE = ("image_text",)  # needs weights of two towers


@functools.cache
def runs_of_tasks() -> Mapping[str, tuple[bytes, bytes]]:
    """Returns task -> config.json and task.json of a run of it."""
    found = {}
    for task in registry.names():
        if task in _NO_SHAPE:
            continue
        config = registry.from_config_dict(registry.default_config(task))
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            workdirs.write_config(folder, config)
            write_spec(folder, task, _first_spec(config))
            found[task] = ((folder / workdirs.CONFIG_FILE).read_bytes(), (folder / SPEC_FILE).read_bytes())
    return found


def _first_spec(config: Config) -> Any:
    """Returns the spec of a task with the first of `_SHAPES` that it takes: what it reads decides."""
    for encoder in _SHAPES[:-1]:
        try:
            return registry.abstract_objective(config, encoder).spec
        except UserError:
            continue
    return registry.abstract_objective(config, _SHAPES[-1]).spec


def _report(**more: Any) -> bytes:
    intervals = {"count": 20, "unit": "sentences", "confidence": 0.95, "metrics": {"f1": [0.8, 0.95]}}
    splits = {
        "valid": {"f1": 0.9, "loss": 0.2, "intervals": intervals, "warnings": ["few"]},
        "test": {"f1": 0.88, "loss": "nan", "precision": 0.9, "counts": {"PER": 3}},
    }
    training = {
        "steps": 20,
        "chosen_step": 10,
        "seconds": 3.5,
        "unit": "tokens",
        "useful_tokens_per_second": 100.0,
        "peak_process_mib": 300.0,
    }
    report = {
        "task": "ner",
        "result": {"split": "test", "metric": "f1", "value": 0.88},
        "directions": {"f1": True},
        "splits": splits,
        "training": training,
        "model": {"init": "scratch", "parameters": 1000},
        "data": {"source": "quickstart", "fingerprint": "ab"},
        "seed": 0,
        "checkpoint": {"step": 10, "averaged": False, "weights_only": True},
        "device": "1 x cpu",
        "versions": {"jaxfm": "1"},
    }
    return json.dumps({**report, **more}).encode()


def _write_run(folder: pathlib.Path) -> None:
    config, spec = runs_of_tasks()["ner"]
    (folder / workdirs.CONFIG_FILE).write_bytes(config)
    (folder / SPEC_FILE).write_bytes(spec)
    (folder / JSON_FILE).write_bytes(_report())
    for step in (5, 10):
        for part in ("params", "rest"):
            (folder / "checkpoints" / str(step) / part).mkdir(parents=True)
    (folder.parent / "victim" / "params").mkdir(parents=True)
    (folder.parent / "victim" / "rest").mkdir()


def _read_run(folder: pathlib.Path) -> Any:
    run = open_run(folder)
    workdirs.read_origin(folder)
    workdirs.read_made_with(folder)
    workdirs.check_extensions(folder, run.config)
    workdirs.pinned(folder, run.config.model)
    return run.spec.batch_spec()


def _read_report(folder: pathlib.Path) -> None:
    runs([folder])
    report = workdirs.read_report(folder)
    headline(report, "f1")
    summary_table(report["splits"], "f1")
    retention.is_cut_off(folder, report)


def spec_seeds() -> list[bytes]:
    """Returns a task.json of each task."""
    return [spec for _, spec in runs_of_tasks().values()]


def _read_spec(folder: pathlib.Path) -> Any:
    """Reads task.json as the run of the task that it names, whatever the config beside it was written for."""
    write_config_of(folder)
    return open_run(folder).spec.batch_spec()


def write_config_of(folder: pathlib.Path) -> None:
    """Writes the config.json that fits the task.json in a folder."""
    try:
        named = json.loads((folder / SPEC_FILE).read_bytes())["task"]
        config = runs_of_tasks()[named][0]
    except (ValueError, RecursionError, KeyError, TypeError):
        config = runs_of_tasks()["ner"][0]
    (folder / workdirs.CONFIG_FILE).write_bytes(config)


def _config_seeds() -> list[bytes]:
    return [config for config, _ in runs_of_tasks().values()]


def _read_config(folder: pathlib.Path) -> Any:
    workdirs.read_origin(folder)
    workdirs.read_made_with(folder)
    workdirs.source_of(folder)
    config = workdirs.read_config(folder)
    workdirs.check_extensions(folder, config)
    return workdirs.pinned(folder, config.model)


@functools.cache
def corpus_files() -> Mapping[str, bytes]:
    """Returns the files of a prepared corpus of a few rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lengths = np.asarray([3, 2, 4])
        tokens = np.arange(9, dtype="<u2")
        shard = write_shard(folder / "rows-00000.array_record", tokens, lengths, [np.asarray([0, 1]), np.asarray([2])])
        buffer = io.BytesIO()
        np.save(buffer, np.arange(10, dtype="<i8"))
        content = {
            "settings": {"row_length": 8, "source": "text"},
            "row_length": 8,
            "vocab_size": 10,
            "pad_id": 0,
            "tokenizer_sha256": "ab",
            "input_sha256": "cd",
            "documents": 3,
            "tokens": 9,
            "rows": 2,
            "useful_share": 0.5,
            "token_counts_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "shards": [shard],
        }
        (folder / TOKEN_COUNTS).write_bytes(buffer.getvalue())
        write_manifest(folder, content)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_corpus(folder: pathlib.Path) -> None:
    for name, content in corpus_files().items():
        (folder / name).write_bytes(content)


def _read_corpus(folder: pathlib.Path) -> None:
    rows = ShardedRows(folder)
    rows.fingerprint()
    rows.token_counts()
    rows.take(np.arange(min(len(rows), 4)))
    _ = rows.spec, rows.volume, rows.useful_share


def _read_signed(folder: pathlib.Path) -> None:
    """Signs the manifest anew, as whoever writes a hostile one would, and reads the corpus."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        manifest["checksum"] = files.json_digest({**manifest, "checksum": ""})
        path.write_text(json.dumps(manifest))
    except (ValueError, RecursionError, TypeError):
        pass  # it stays as it is
    _read_corpus(folder)


def _read_counts(folder: pathlib.Path) -> None:
    """Signs the counts and the manifest anew, and reads the counts."""
    manifest = json.loads(corpus_files()[MANIFEST])
    manifest["token_counts_sha256"] = hashlib.sha256((folder / TOKEN_COUNTS).read_bytes()).hexdigest()
    manifest["checksum"] = files.json_digest({**manifest, "checksum": ""})
    (folder / MANIFEST).write_text(json.dumps(manifest))
    ShardedRows(folder).token_counts()


def _read_rows(folder: pathlib.Path) -> None:
    """Signs the shard and the manifest anew, and reads its rows."""
    manifest = json.loads(corpus_files()[MANIFEST])
    content = (folder / "rows-00000.array_record").read_bytes()
    manifest["shards"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["checksum"] = files.json_digest({**manifest, "checksum": ""})
    (folder / MANIFEST).write_text(json.dumps(manifest))
    ShardedRows(folder).take(np.arange(2))


def _write_store(folder: pathlib.Path) -> None:
    made = folder / "made"
    identity = Identity("ab", "run", "cd", "corpus.jsonl", 2, 4, "cosine")
    store = make_store(made, identity)
    store.append(np.ones((2, 4), np.float32), [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()


@functools.cache
def _store() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        _write_store(pathlib.Path(name))
        return {path.name: path.read_bytes() for path in pathlib.Path(name).iterdir()}


def _read_store(folder: pathlib.Path) -> None:
    store = VectorStore(folder)
    store.check(Identity("ab", "run", "cd", "corpus.jsonl", 2, 4, "cosine"))
    with np.errstate(all="ignore"):  # they may be any numbers
        np.asarray(store.vectors[:2]).sum()
    store.texts(range(min(store.done, 4)))


_OVERRIDES = (
    '{"train.epochs": 3, "optim.learning_rate": 0.001, "data.source": "conll:data"}',
    '{"task.head": "crf", "train.batch_size": 8, "seed": 1, "eval.metric": "f1", "parallel.mesh.data": -1}',
    '{"data.row_length": "auto", "adapt.lora.targets": ["query"], "log.tracker": "", "model.dropout": null}',
)


def _read_overrides(folder: pathlib.Path) -> Any:
    """Reads what a program passes as `overrides`: JSON here, so that values have any type."""
    try:
        values = json.loads((folder / "overrides.json").read_bytes())
    except (ValueError, RecursionError):
        return None
    return resolve_config("ner:files", values) if isinstance(values, dict) else None


_ARGUMENTS = (
    '{"output_dir": "out", "learning_rate": 2e-05, "num_train_epochs": 3, "per_device_train_batch_size": 8, '
    '"warmup_ratio": 0.1, "bf16": false, "seed": 1, "lr_scheduler_type": "linear", "weight_decay": 0.01}',
)
_YAML = (
    "output_dir: out\nlearning_rate: 2.0e-5\nnum_train_epochs: 3\nseed: 1\noptim: adamw_torch\nreport_to: [none]\n",
)
_SCRIPT = (
    "from transformers import Trainer, TrainingArguments, AutoModelForTokenClassification\n"
    "RATE = 2e-5\nmodel = AutoModelForTokenClassification.from_pretrained('bert-base-cased')\n"
    "args = TrainingArguments('out', learning_rate=RATE, num_train_epochs=3,\n    seed=1)\n"
    "Trainer(model=model, args=args).train()\n",
)
_METRICS = (
    '{"step": 1, "split": "train", "loss": 1.5, "tokens_per_second": 10}\n{"step": 2, "split": "valid", "f1": "nan"}\n',
)
_CALIBRATION = ('{"temperature": 1.25, "threshold": 0.5}',)
_LOCK = ('{"pid": 1, "host": "node", "since": "2026-01-01", "command": "train"}',)


def _read_lock(folder: pathlib.Path) -> None:
    files.holder_of(folder / ".lock")
    with files.held(folder / ".lock", f"--workdir={folder}"):
        pass


def _stored(files_of: Any, name: str) -> Any:
    return lambda: [files_of()[name]]


_ARRAYS: Sequence[mutations.Mutation] = (mutations.of_array_header, mutations.of_array_header, *BYTES)
READERS = (
    Reader("run_config", workdirs.CONFIG_FILE, _config_seeds, _read_config, JSON, share=200),
    Reader("task_json", SPEC_FILE, spec_seeds, _read_spec, JSON, share=250),
    Reader("report_json", JSON_FILE, lambda: [_report()], _read_report, JSON, prepare=_write_run, share=200),
    Reader("calibration", CALIBRATION_FILE, texts(*_CALIBRATION), read_calibration, JSON, share=200),
    Reader(
        "metrics", METRICS_FILE, texts(*_METRICS), lambda folder: read_metrics(folder / METRICS_FILE), JSON_LINES,
        share=200,
    ),
    Reader("lock", ".lock", texts(*_LOCK), _read_lock, JSON, share=100),
    Reader("manifest", MANIFEST, _stored(corpus_files, MANIFEST), _read_corpus, JSON, prepare=_write_corpus, share=100),
    Reader(
        "signed_manifest", MANIFEST, _stored(corpus_files, MANIFEST), _read_signed, JSON,
        prepare=_write_corpus, share=150,
    ),
    Reader(
        "token_counts", TOKEN_COUNTS, _stored(corpus_files, TOKEN_COUNTS), _read_counts, _ARRAYS, prepare=_write_corpus,
        share=150,
    ),
    Reader(
        "corpus_rows", "rows-00000.array_record", _stored(corpus_files, "rows-00000.array_record"), _read_rows, BYTES,
        prepare=_write_corpus, share=100,
    ),
    Reader(
        "store_manifest", "manifest.json", _stored(_store, "manifest.json"), _read_store, JSON, prepare=_write_store
    ),
    Reader("store_vectors", "vectors.npy", _stored(_store, "vectors.npy"), _read_store, _ARRAYS, prepare=_write_store),
    Reader("store_offsets", "offsets.npy", _stored(_store, "offsets.npy"), _read_store, _ARRAYS, prepare=_write_store),
    Reader("store_texts", "texts.jsonl", _stored(_store, "texts.jsonl"), _read_store, JSON_LINES, prepare=_write_store),
    Reader(
        "overrides", "overrides.json", texts(*_OVERRIDES), _read_overrides, JSON, share=100, places=("config.",)
    ),
    Reader(
        "arguments_json", "arguments.json", texts(*_ARGUMENTS),
        lambda folder: convert(folder / "arguments.json", "ner:files"), JSON, share=100, places=("config.",),
    ),
    Reader(
        "arguments_yaml", "arguments.yaml", texts(*_YAML),
        lambda folder: convert(folder / "arguments.yaml", "ner:files"), TEXT, share=50, places=("config.",),
    ),
    Reader(
        "trainer_script", "train.py", texts(*_SCRIPT), lambda folder: convert(folder / "train.py"), TEXT, share=50,
        places=("config.",),
    ),
)  # fmt: skip
