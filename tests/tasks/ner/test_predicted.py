"""What a tagger says of a text, as a sentence of the source's form."""

from jaxfm.data.records.tagged_writing import tagged_line
from jaxfm.tasks.ner.predicted import predicted_sentence


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
