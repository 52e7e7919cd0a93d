"""What a tagger says of a text, as a sentence of the source's form."""

import json
import pathlib

from jaxfm.core.task import WritesExamples
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.tagged_writing import tagged_line
from jaxfm.data.text.tagging import entity_spans
from jaxfm.programs.model import Model
from jaxfm.tasks.ner.predicted import predicted_sentence
from jaxfm.training.saved_run import open_run
from tests import tiny


def test_entities_of_texts_and_of_words() -> None:
    entities = [{"type": "PER", "start": 0, "end": 9}, {"type": "LOC", "start": 13, "end": 17}]
    text = predicted_sentence({"text": "Ada Boole in Rome.", "entities": entities}, "coarse")
    assert text.words[:4] == ("Ada", "Boole", "in", "Rome") and text.tags[:4] == ("B-PER", "I-PER", "O", "B-LOC")
    assert tagged_line(text, 3, in_text=True) == {
        "text": "Ada Boole in Rome.",
        "entities": [{"start": 0, "end": 9, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}],
        "document": 3,
    }
    assert tagged_line(text, 3, in_text=False)["ner_tags"] == list(text.tags)
    words = ["Ada", "Boole", "in", "Rome."]
    wide = [entities[0], {"type": "LOC", "start": 13, "end": 18}]
    given = predicted_sentence({"text": "Ada Boole in Rome.", "tokens": words, "entities": wide}, "coarse")
    assert given.words == tuple(words) and given.tags == ("B-PER", "I-PER", "O", "B-LOC") and given.marked is None
    assert tagged_line(given, 0, in_text=True)["text"] == "Ada Boole in Rome."


def test_examples_and_predictions_are_a_source_again(tmp_path: pathlib.Path) -> None:
    """Words stay words and texts stay texts, whichever the unlabelled records are."""
    run = open_run(tiny.write_runs(tmp_path, ("ner",))["ner"])
    results = Model(run.workdir)([{"text": "ada met emmy in hull"}, {"tokens": ["near", "ghent"]}])
    (tmp_path / "texts").mkdir()
    lines = [
        {"text": "(ada) left", "entities": [[1, 4, "PER"]]},
        {"text": "to hull, ghent", "entities": [[3, 7, "LOC"], [9, 14, "LOC"]]},
    ]
    (tmp_path / "texts" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, source in enumerate((run.config.data.source, f"jsonl:{tmp_path / 'texts'}")):
        task = run.task(source, "train")
        assert isinstance(task, WritesExamples)
        written = [*task.example_lines("train"), *task.predicted_lines("train", results)]
        folder = tmp_path / f"again_{number}"
        folder.mkdir()
        (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
        before, after = (read_tagged(each, ("train",))["train"].sentences for each in (source, f"jsonl:{folder}"))
        assert [(each.words, each.tags) for each in after[: len(before)]] == [
            (each.words, each.tags) for each in before
        ]
        assert [" ".join(each.words) for each in after[len(before) :]] == ["ada met emmy in hull", "near ghent"]
        assert all((each.marked is not None) == (number == 1) for each in after)
        for sentence, result in zip(after[len(before) :], results, strict=True):
            found = [" ".join(sentence.words[a:b]) for a, b, _ in entity_spans(sentence.tags)]
            assert found == [entity["text"] for entity in result["entities"]]
