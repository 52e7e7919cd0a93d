"""configs/ and launch/ are found in a checkout and in an installed package, and a config by its short name."""

import importlib
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.programs import shipped

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working directory: a folder with nothing in it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_folders_of_the_checkout_are_found() -> None:
    assert shipped.folder(shipped.CONFIGS) == ROOT / "configs"
    assert shipped.folder(shipped.LAUNCH) == ROOT / "launch"
    assert {"ner", "mlm", "classification"} <= set(shipped.config_names())


def test_an_installed_package_has_them_inside(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "jaxfm"
    for folder in (package / "configs", package.parent / "configs"):  # the other one is of some other package
        folder.mkdir(parents=True)
        (folder / f"of_{folder.parent.name}.py").write_text("")
    monkeypatch.setattr(shipped, "__file__", str(package / "programs" / "shipped.py"))
    assert shipped.config_names() == ("of_jaxfm",)
    with pytest.raises(UserError, match=r"lacks the folder launch/\. Install it anew"):
        shipped.folder(shipped.LAUNCH)


def test_every_config_names_its_variants_and_builds_them() -> None:
    for name, variants in shipped.listing().items():
        module = importlib.import_module(f"configs.{name}")
        assert variants and len(set(variants)) == len(variants)
        assert all(module.get_config(variant) for variant in variants)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ner", "configs/ner.py"),
        ("ner:files", "configs/ner.py:files"),
        ("configs/ner.py", "configs/ner.py"),
        ("configs/mlm.py:rtd_bert_small", "configs/mlm.py:rtd_bert_small"),
    ],
)
def test_what_the_working_directory_lacks_is_taken_from_jaxfm(value: str, expected: str) -> None:
    assert shipped.config_file(value) == str(ROOT / expected)
    assert shipped.is_shipped(shipped.config_file(value))


def test_a_file_of_the_working_directory_comes_first(empty_folder: pathlib.Path) -> None:
    (empty_folder / "configs").mkdir()
    (empty_folder / "configs" / "ner.py").write_text("")
    (empty_folder / "mine.py").write_text("")
    assert shipped.config_file("configs/ner.py:files") == "configs/ner.py:files"
    assert shipped.config_file("mine.py") == "mine.py"
    assert shipped.config_file(f"{empty_folder}/mine.py:x") == f"{empty_folder}/mine.py:x"
    assert not shipped.is_shipped("configs/ner.py:files")
    assert shipped.config_file("ner") == str(ROOT / "configs" / "ner.py")  # a short name is always jaxfm's own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nerr:files", r"--config=nerr:files: there is no config 'nerr' in jaxfm\. Did you mean 'ner'\?"),
        (
            "mine",
            r"Valid choices: 'audio_classification', 'classification', .* and \d+ more\. A file of your own",
        ),
        ("configs/nerr.py", r"there is no such file, here or in jaxfm\. Did you mean 'configs/ner\.py'\?"),
        (
            "mine.py:x",
            r"--config=mine\.py:x: there is no such file \(looked from .*empty\)\. .*: audio_class",
        ),
        ("/no/such.py", r"--config=/no/such\.py: there is no such file"),
        ("", r"--config=: there is no such file"),
    ],
)
def test_what_is_nowhere_names_the_nearest(value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shipped.config_file(value)
