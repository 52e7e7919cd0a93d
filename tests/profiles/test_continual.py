"""The streams that profiles/continual.py makes of the optional data; a whole measurement of a tiny one."""

import json
import pathlib

import pytest

from profiles import continual
from tests import tiny


def test_stages_of_the_real_sets(shared_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    stream = continual.write_stages(continual.questions(shared_data), tmp_path, {"train": 30, "test": 10})
    assert [stage["name"] for stage in stream] == list(continual.OF_TREC)
    for (name, classes), stage in zip(continual.OF_TREC.items(), stream, strict=True):
        assert stage["data.source"] == f"jsonl:{tmp_path / name}"
        lines = [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        assert len(lines) == 30 and {line["label"] for line in lines} == set(classes)
    tagged = continual.entities(shared_data)
    types = {
        name: {tag[2:] for line in make("train") for tag in line["ner_tags"] if tag != "O"}
        for name, make in tagged.items()
    }
    assert types == {
        "wikigold": {"PER", "LOC", "ORG", "MISC"},
        "wnut17": {"PER", "LOC", "ORG", "product", "creative-work"},
        "broad-twitter": {"PER", "LOC", "ORG"},
    }


@pytest.mark.slow
def test_a_whole_measurement(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stages(data: pathlib.Path) -> continual.Stages:
        def lines(split: str) -> object:
            for words, tags in tiny.sentences(20, len(split)):
                yield {"text": " ".join(words), "tokens": words, "ner_tags": tags}

        del data
        return {"a": lines, "b": lines}  # type: ignore[dict-item]

    monkeypatch.setattr(continual, "SETS", {"ner": (stages, "ner:files", "f1")})
    tiny.write_weights(tmp_path / "weights")
    words = [f"--data={tmp_path}", f"--output={tmp_path / 'o.json'}", f"--workdir={tmp_path / 'w'}", "--seeds=0"]
    words += [f"--init=dir:{tmp_path / 'weights'}", "--methods=naive,average", "--steps=2", "--limit=12"]
    continual.main([*words, "--config.data.row_length=48"])
    record = json.loads((tmp_path / "o.json").read_text())
    assert record["sets"]["ner"]["stages"] == ["a", "b"]
    assert set(record["sets"]["ner"]["methods"]) == {"naive", "average"}
    assert "| average" in capsys.readouterr().out
