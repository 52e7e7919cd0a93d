"""Every script says a user's mistake in one message and exits with 2, like jaxfm's programs."""

import importlib.util
import pathlib
import runpy

import pytest
from absl import flags

from jaxfm.errors import UserError
from profiles import command_line

PROFILES = pathlib.Path(command_line.__file__).parent
# Modules that others import; every other file is a script.
SHARED = {"command_line", "quality", "small_sets", "steps"}
# Those that read absl flags: `jaxfm.program.run` ends them, with its own tests.
BY_FLAGS = {"classification_quality", "ner_quality", "packing_quality", "prepare_memory", "relations"}
# Standing alone, they need torch.
REFERENCES = {
    "hf_audio",
    "hf_classification",
    "hf_image",
    "hf_mlm",
    "hf_qa",
    "hf_relations",
    "hf_seq2seq",
    "hf_serve",
    "st_embedding",
    "st_encode",
    "torch_sasrec",
}
# Run by the Python of another environment, which has spaCy.
ELSEWHERE = {"spacy_reference"}
# In a folder of their own, with the modules that they share.
IN_FOLDERS = {"faults/fuzz"}
NAMES = sorted(path.stem for path in PROFILES.glob("*.py") if path.stem not in SHARED | ELSEWHERE) + sorted(IN_FOLDERS)
# torch and transformers take ten seconds to import.
SLOW = {name: [pytest.mark.slow] if name in REFERENCES else [] for name in NAMES}

# Of each script that argparse reads: words with a mistake that only its work finds, and what the message says of it.
MISTAKES = {
    "active_learning": (
        ["--source=conll:absent", "--output=o.json", "--by=entropi"],
        "--by: 'entropi' is none of them. Did you mean 'entropy'?",
    ),
    "against_transformers": (
        ["--reference=absent.py", "--source=conll:absent", "--output=o.json"],
        "absent",
    ),
    "audio_quality": (["--data=absent", "--output=o.json"], "--data=absent: must be a folder with one .npz file"),
    "assist": (
        ["--data=absent", "--output=o.json", "--ways=bm52"],
        "--ways: 'bm52' is none of them. Did you mean 'bm25'?",
    ),
    "augmentation": (
        ["--data=absent", "--output=o.json", "--workdir=w", "--kinds=mixap"],
        "--kinds: 'mixap' is not one of none, word_dropout",
    ),
    "causal_then_masked": (
        ["--corpus=absent", "--ner=absent", "--output=o.json", "--workdir=w", "--until=1"],
        "--until: '1' must be a number of at least 0 and below 1",
    ),
    "ceilings": (["--sizes=8,big", "--output=o.json"], "--sizes=8,big: must be whole numbers"),
    "coordinate_check": (["--output=o.json", "--widths=64,wide"], "--widths=64,wide: must be whole numbers"),
    "continual": (
        ["--data=absent", "--output=o.json", "--methods=naive,ewd"],
        "'ewd' is no method. Did you mean 'ewc'",
    ),
    "cross_domain": (
        ["--source=conll:absent", "--target=conll:absent", "--output=o.json", "--labels=0,few"],
        "--labels=0,few: must be whole numbers",
    ),
    "data": (["--config=absent.py"], "--config=absent.py"),
    "decoding": (["--output=o.json", "--batches=1,many"], "--batches=1,many: must be whole numbers"),
    "embedding_quality": (
        ["--train=jsonl:absent", "--output=o.json", "--programs=jaxfn"],
        "--programs: 'jaxfn' is none",
    ),
    "export_formats": (["--source=conll:absent", "--output=o.json", "--turns=0"], "--turns=0: must be at least 1"),
    "planted": (["--output=o.json", "--seeds=0,one"], "--seeds=0,one: must be whole numbers"),
    "drift": (
        ["--source=conll:absent", "--output=o.json", "--pool=100", "--reference=90", "--new=20"],
        "--pool=100: is less than --reference and --new take together",
    ),
    "seq2seq": (["--set=revers", "--output=o.json"], "--set: 'revers' is none of them. Did you mean 'reverse'?"),
    "stress": (
        ["--source=conll:absent", "--output=o.json", "--seen=case", "--unseen=case,ocr"],
        "--unseen: case is one of --seen too",
    ),
    "quantisation": (["--source=conll:absent", "--output=o.json", "--turns=0"], "--turns=0: must be at least 1"),
    "pruning": (["--source=conll:absent", "--output=o.json", "--budgets=0.5,1"], "--budgets: 1 must be a share"),
    "explaining": (["--source=conll:absent", "--output=o.json", "--orders=0"], "--orders=0: must be at least 1"),
    "faults/fuzz": (["--reader=conl", "--output=o.json"], "--reader: 'conl' is not one of them. Did you mean 'conll'?"),
    "federated": (
        ["--set=sst2", "--data=absent", "--output=o.json", "--scenarios=fedavgg"],
        "--scenarios: 'fedavgg' is unknown. Did you mean 'fedavg'?",
    ),
    "few_shot": (["--output=o.json", "--methods=probe,setfitt"], "--methods: 'setfitt' is none of probe, tune, setfit"),
    "growing": (
        ["--source=text:absent", "--output=o.json", "--layers=1,many"],
        "--layers=1,many: must be whole numbers",
    ),
    "hf_classification": (["absent", "absent"], "absent/config.json: no such file"),
    "hf_audio": (["absent.npz", "absent"], "absent.npz: no such file"),
    "hf_image": (["absent", "absent"], "absent/images.npz: no such file"),
    "hf_mlm": (["absent", "--batch=1", "--row-length=8"], "absent/config.json: no such file"),
    "hf_qa": (["absent", "absent", "--predictions=o.json"], "absent/config.json: no such file"),
    "hf_relations": (["absent", "absent"], "absent/config.json: no such file"),
    "hf_seq2seq": (["absent", "absent", "--predictions=o.json"], "absent/train.jsonl: no such file"),
    "hf_serve": (["absent"], "absent: no such directory"),
    "detection": (["--output=o.json", "--seeds=0,x"], "--seeds=0,x: must be whole numbers"),
    "image_generation": (["--output=o.json", "--steps=1,few"], "--steps=1,few: must be whole numbers"),
    "image_data": (["--sizes=32,big", "--output=o.json"], "--sizes=32,big: must be whole numbers"),
    "image_quality": (["--data=absent", "--output=o.json", "--programs=hf"], "--programs: 'hf' is none of scratch"),
    "image_text_quality": (["--data=absent", "--output=o.json"], "--data=absent: must be a folder with one .npz"),
    "image_sets": (["--data=absent", "--output=out"], "--data=absent: must be a folder with one .npz"),
    "interval_coverage": (["--counts=27,many"], "--counts=27,many: must be whole numbers"),
    "label_errors": (["--source=conll:absent", "--output=o.json", "--noise=0.5"], "--noise=0.5: must be above 0"),
    "load_memory": (["--devices=1,few", "--output=o.json"], "--devices=1,few: must be whole numbers"),
    "loss_curves": (["absent", "absent", "--output=o.json"], "absent/metrics.jsonl: No such file or directory"),
    "many_seeds": (["--config=absent.py", "--output=o.json", "--seeds=1"], "--seeds=1: must be at least 2"),
    "masked_positions": (["--preset=bert_absent", "--output=o.json"], "bert_absent"),
    "mlm_against_torch": (["--config=absent.py", "--output=o.json"], "--config=absent.py"),
    "mlm_convergence": (["--source=text:absent", "--preset=bert_absent", "--output=o.json"], "bert_absent"),
    "model_page": (["--output=absent/models.md"], "--output=absent/models.md: there is no folder absent"),
    "model_parity": (["--families=brt", "--output=o.json"], "--families: 'brt' is not one of bert"),
    "mup_transfer": (["--source=text:absent", "--preset=bert_absent", "--output=o.json"], "bert_absent"),
    "ner_decoding": (["--runs=absent"], "--workdir=absent: holds no run of jaxfm"),
    "nested_ner": (["--output=o.json", "--seeds=0,one"], "--seeds=0,one: must be whole numbers"),
    "zero_shot": (["--data=absent", "--output=o.json"], "--data=absent: no such folder"),
    "ner_recipe": (
        ["--data=.", "--output=o.json", "--recipes=epoch"],
        "--recipes: 'epoch' is none of them. Did you mean",
    ),
    "optimizers": (
        ["--recipe=ner", "--source=conll:absent", "--output=o.json", "--optimizers=adam"],
        "--optimizers: 'adam' is none of them. Did you mean 'adamw'?",
    ),
    "pictures": (["--workdir=."], "--workdir=.: is there already"),
    "qa_quality": (["--source=jsonl:absent", "--output=o.json", "--unanswered=1"], "--unanswered=1: must be a share"),
    "recommendation": (["--output=o.json", "--programs=causl"], "--programs: 'causl' is none of them. Did you mean"),
    "scaling": (["--config=absent.py", "--output=o.json"], "--config=absent.py"),
    "small_data": (["--data=absent", "--output=o.json"], "--data=absent: no such folder"),
    "speech_quality": (
        ["--data=absent", "--output=o.json", "--parts=digit"],
        "--parts: 'digit' is none of them.",
    ),
    "st_embedding": (["absent", "absent", "absent"], "absent/config.json: no such file"),
    "st_encode": (["absent", "absent.txt", "vectors.npy"], "absent.txt: no such file"),
    "embed_corpus": (["--run=absent", "--words=absent", "--output=o.json"], "--words=absent: no such file"),
    "reranking": (
        ["--train=dialogue:absent", "--output=o.json", "--top=200"],
        "--top=200: must be at most --candidates=100",
    ),
    "search": (
        ["--config=configs/ner.py", "--space=s.json", "--workdir=w", "--output=o.json", "--ways=tpes"],
        "--ways: 'tpes' is none of them. Did you mean 'tpe'?",
    ),
    "serve_load": (["--run=absent", "--texts=absent", "--output=o.json"], "--texts=absent: no such file"),
    "serve_pictures": (["--ner=absent", "--embedding=absent", "--output=."], "absent: no such run directory"),
    "early_exit": (
        ["--source=tsv:absent", "--output=o.json", "--ways=joint,alone"],
        "--ways: 'alone' is none of joint, distilled, apart, first token",
    ),
    "distillation": (
        ["--config=configs/classification.py:files", "--data=absent", "--workdir=w", "--output=o.json", "--every=1"],
        "--every=1: must be at least 2",
    ),
    "supernet": (
        ["--config=configs/classification.py", "--data=absent", "--workdir=w", "--output=o.json", "--shapes=2"],
        "--shapes=2: must be at least 3",
    ),
    "whole_batch_memory": (["--batches=64,many", "--output=o.json"], "--batches=64,many: must be whole numbers"),
    "start": (["--config=configs/ner.py", "--repeats=0", "--output=o.json"], "--repeats=0: must be at least 1"),
    "throughput": (["--config=absent.py"], "--config=absent.py"),
    "torch_sasrec": (["absent.json"], "absent.json: no such file"),
    "training_parity": (["--families=brt", "--output=o.json"], "--families: 'brt' is not one of bert"),
    "trace": (["--config=absent.py"], "--config=absent.py"),
}


def ends(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> object:
    """Runs a script as `python profiles/SCRIPT.py WORDS` would, in this process; returns its exit code."""
    for library in ("torch", *(("sentence_transformers",) if script.startswith("st_") else ())):
        if script in REFERENCES and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    monkeypatch.setattr("sys.argv", [f"{script}.py", *words])
    monkeypatch.chdir(folder)
    # An earlier test of this process may have defined flags of a program (the reader of command lines that is fuzzed).
    kept = {name: flags.FLAGS[name] for name in ("config", "workdir") if name in flags.FLAGS}
    for name in kept:
        delattr(flags.FLAGS, name)
    known = set(flags.FLAGS)
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROFILES / f"{script}.py"), run_name="__main__")
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        for name, flag in kept.items():
            flags.FLAGS[name] = flag
    return ended.value.code


@pytest.mark.parametrize("script", [pytest.param(name, marks=marks) for name, marks in SLOW.items()])
def test_a_misspelt_flag_is_one_message(
    script: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(script, [*MISTAKES.get(script, ([],))[0], "--no-such-flag=1"], monkeypatch, tmp_path) == 2
    errors = capsys.readouterr().err
    assert "no-such-flag" in errors and "Traceback" not in errors


@pytest.mark.parametrize("script", [pytest.param(name, marks=SLOW[name]) for name in MISTAKES])
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections, on Python 3.12
def test_a_mistake_that_the_work_finds_is_one_message(
    script: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = MISTAKES[script]
    assert ends(script, words, monkeypatch, tmp_path) == 2
    errors = capsys.readouterr().err
    assert expected in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())  # nothing was written


def test_every_script_has_a_mistake() -> None:
    assert set(MISTAKES) | BY_FLAGS == set(NAMES)


def test_an_error_of_our_own_stays_a_traceback() -> None:
    def fails() -> None:
        raise ValueError("of our own")

    with pytest.raises(ValueError, match="of our own"):
        command_line.run(fails)
    with pytest.raises(OSError, match="no file"):
        command_line.run(lambda: (_ for _ in ()).throw(OSError("no file")))


def test_ctrl_c_is_told_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        command_line.run(interrupted)
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_values_of_words() -> None:
    words = [
        "--config.train.steps=3",
        "--config.task.name=7",
        "--config.data.source=csv:a=b",
        "--config.adapt.x=(1, 2)",
    ]
    wanted = {"train.steps": 3, "task.name": "7", "data.source": "csv:a=b", "adapt.x": (1, 2)}
    assert command_line.values(words, {"task.name": "ner", "train.steps": 0}) == wanted
    assert command_line.values(words, {})["task.name"] == 7


def test_numbers_of_a_flag() -> None:
    assert command_line.integers("--seeds", ["0", "12"]) == [0, 12]
    with pytest.raises(UserError, match=r"--seeds=0,one: must be whole numbers, separated by commas\."):
        command_line.integers("--seeds", ["0", "one"])
