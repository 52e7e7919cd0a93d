import pathlib

import numpy as np
from matplotlib.image import imread

from jaxfm import files
from jaxfm.data.corpora.preparation_report import length_counts, to_preparation_text, write_preparation_report

CONTENT = {
    "settings": {
        "source": "text:corpus (train)",
        "row_length": 128,
        "contamination": {"test.txt": "ab", "b.txt": "cd"},
    },
    "row_length": 128,
    "documents": 1000,
    "characters": 40_000,
    "bytes": 2_500_000,
    "dropped": {"exact duplicate": 30, "contaminated": 2},
    "dropped_characters": {"exact duplicate": 1000, "contaminated": 4000},
    "overlaps": {"test.txt": 2},
    "pieces": 9000,
    "unknown_share": 0.002,
    "histogram": [1, 0, 0, 900, 67, *[0] * 35],
    "tokens": 10_000,
    "rows": 80,
    "useful_share": 0.9765,
    "shards": [{"name": "rows-00000.array_record"}, {"name": "rows-00001.array_record"}],
}
RUN = {"seconds": 75.2, "megabytes_per_second": 0.125, "found_finished": 1, "workers": 2}
DROPPED = {"exact duplicate": ["a.txt:3", "a.txt:9"], "contaminated": ["b.txt:1", "b.txt:2"]}


def test_the_report_says_what_became_of_the_corpus() -> None:
    text = to_preparation_text(CONTENT, RUN, DROPPED)
    words = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    for line in (
        "# Prepared corpus: text:corpus (train)",
        "1,000 documents (2.5 MB) became 80 rows of 128 tokens in 2 shards; 97.7% of the tokens in the rows are not "
        "padding.",
        "documents kept 968",
        "unknown pieces 0.2000%",
        "documents without a piece 1",
        "exact duplicate 30 1,000 2.50%",
        "near duplicate 0 0 0.00%",
        "contaminated 2 4,000 10.00%",
        "test.txt 2",
        "b.txt 0",
        "exact duplicate: a.txt:3, a.txt:9 and 28 more",
        "contaminated: b.txt:1, b.txt:2",
        "4-7 900",
        "8-15 67",
        "seconds 75.2 (1m 15s)",
        "MB of text a second 0.12",
        "shards found finished 1",
    ):
        assert line in words, line
    assert "does not fit" not in text


def test_a_tokenizer_that_does_not_fit_is_said() -> None:
    assert "**3.0% of the pieces are the unknown token**" in to_preparation_text(
        CONTENT | {"unknown_share": 0.03}, RUN, DROPPED
    )
    # A few unknown tokens may hold much of the text.
    text = to_preparation_text(CONTENT | {"unknown_text_share": 0.4}, RUN, DROPPED)
    assert "**0.2% of the pieces are the unknown token, which holds 40.0% of the text**" in text
    assert "more than 100 letters" in text and "does not fit" not in to_preparation_text(CONTENT, RUN, DROPPED)


def test_a_corpus_without_anything_left_out_has_a_report() -> None:
    settings = CONTENT["settings"] | {"contamination": {}}
    text = to_preparation_text(CONTENT | {"settings": settings, "dropped": {}, "dropped_characters": {}}, RUN, {})
    assert "evaluation text" not in text and "more" not in text


def test_classes_of_length_double() -> None:
    histogram = [0] * 40
    for pieces, documents in ((1, 5), (2, 7), (3, 1), (1000, 2)):
        histogram[pieces.bit_length()] += documents
    counts = length_counts(histogram)
    assert list(counts)[:3] == ["1", "2-3", "4-7"] and list(counts)[-1] == "512-1,023"
    assert [count for count in counts.values() if count] == [5, 8, 2]
    assert length_counts([0] * 40) == {"0": 0}


def test_the_report_is_written_with_its_picture(tmp_path: pathlib.Path) -> None:
    write_preparation_report(tmp_path, CONTENT, RUN, DROPPED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lengths.png", "report.json", "report.md"]
    assert "lengths.png" in (tmp_path / "report.md").read_text()
    assert np.ptp(imread(tmp_path / "lengths.png")) > 0.5
    report = files.read_json(tmp_path / "report.json")
    assert report["run"] == RUN and report["shards"] == 2 and report["dropped_documents"] == DROPPED
