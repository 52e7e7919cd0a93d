"""The NER task: words to rows and back, labels and heads, and what it refuses."""

import dataclasses
import pathlib
import random
import string
from typing import Any

import numpy as np
import pytest

from jaxfm.data.text.tokenization import encode_words
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.ner.predictor import NerPredictor
from jaxfm.tasks.ner.task import NerTask
from jaxfm.training.initial import resolve
from tests import tiny


def create(folder: pathlib.Path, **overrides: Any) -> tuple[NerTask, dict[str, np.ndarray], tuple[str, ...]]:
    config = tiny.config(folder, **overrides)
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, NerTask)
    return task, dict(loaded), task.notes


def long_sentences(count: int, seed: int) -> list[tiny.Sentence]:
    """Sentences of up to 120 words, words of up to 25 letters (one piece a letter)."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words = [
            "".join(draw.choices(string.ascii_lowercase, k=draw.choice((1, 2, 3, 25))))
            for _ in range(draw.choice((1, 3, 40, 120)))
        ]
        tags = [draw.choice(("O", "O", "B-LOC", "B-PER")) for _ in words]
        made.append((words, tags))
    return made


@pytest.mark.parametrize("context", ["sentence", "document"])
@pytest.mark.parametrize(("row_length", "window", "overlap"), [(12, 0, 4), (40, 17, 0), (40, 17, 14)])
def test_every_word_is_read_at_its_own_first_piece_exactly_once(
    tmp_path: pathlib.Path, context: str, row_length: int, window: int, overlap: int
) -> None:
    for split in ("train", "valid"):
        tiny.write_conll(tmp_path / "corpus" / f"{split}.conll", long_sentences(12, len(split)), documents=3)
    task, _, _ = create(
        tmp_path, data__row_length=row_length, data__window=window, task__overlap=overlap, task__context=context
    )
    for split in tuple(task.datasets):
        encoded, sentences = task.encoded[split], task.sentences[split]
        assert max(len(sentence.words) for sentence in sentences) > row_length
        rows = encoded.rows
        assert rows.tokens.shape[1] == row_length
        places = np.arange(rows.tokens.size).reshape(rows.tokens.shape)
        read = encoded.per_word(places)  # where each word is read
        assert [len(row) for row in read] == [len(sentence.words) for sentence in sentences]
        everything = np.concatenate(read)
        assert len(set(everything.tolist())) == len(everything)
        pieces = encode_words(task.tokenizer, [sentence.words for sentence in sentences])
        for where, words, sentence in zip(read, pieces, sentences, strict=True):
            assert rows.tokens.flat[where].tolist() == [word[0] for word in words]
            assert [task.objective.spec.labels[label] for label in rows.labels.flat[where]] == list(sentence.tags)
        assert (rows.labels >= 0).sum() == len(everything)  # and no label lies anywhere else


def test_document_context_fills_windows_with_the_neighbours(tmp_path: pathlib.Path) -> None:
    content = [([letter] * 3, ["B-LOC", "O", "O"]) for letter in "abcdefgh"]
    for split in ("train", "valid"):
        tiny.write_conll(tmp_path / "corpus" / f"{split}.conll", content, documents=4)
    alone, _, _ = create(tmp_path)
    among, _, _ = create(tmp_path, task__context="document")
    assert [len(tokens) for tokens in alone.encoded["valid"].windows.tokens] == [5] * 8
    windows = among.encoded["valid"].windows
    assert len(windows.tokens) == 8
    vocabulary = {piece: index for index, piece in enumerate(tiny.VOCABULARY)}
    for index, (tokens, labels) in enumerate(zip(windows.tokens, windows.labels, strict=True)):
        document = "abcd" if index < 4 else "efgh"  # never a sentence of another document
        wanted = [vocabulary[letter] for letter in document for _ in range(3)]
        assert tokens.tolist() == [vocabulary["[CLS]"], *wanted, vocabulary["[SEP]"]]
        own = tokens == vocabulary["abcdefgh"[index]]
        np.testing.assert_array_equal(labels >= 0, own)
    # Without document marks each sentence is its own document.
    for split in ("train", "valid"):
        tiny.write_conll(tmp_path / "corpus" / f"{split}.conll", content)
    unmarked, _, _ = create(tmp_path, task__context="document")
    for got, wanted in zip(
        unmarked.encoded["valid"].windows.tokens, alone.encoded["valid"].windows.tokens, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_training_sentences_are_packed_in_another_order_by_each_seed(tmp_path: pathlib.Path) -> None:
    first, same, other = (create(tmp_path, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.datasets["train"].tokens, same.datasets["train"].tokens)
    assert first.datasets["train"].tokens.shape != other.datasets["train"].tokens.shape or not np.array_equal(
        first.datasets["train"].tokens, other.datasets["train"].tokens
    )
    np.testing.assert_array_equal(first.datasets["test"].tokens, other.datasets["test"].tokens)


# Labels and the head.


def test_labels_are_both_positions_of_every_type_of_the_training_data(tmp_path: pathlib.Path) -> None:
    words, tags = ["a", "b", "c"], ["B-LOC", "O", "B-PER"]  # no I- anywhere in training
    tiny.write_conll(tmp_path / "corpus" / "train.conll", [(words, tags)])
    tiny.write_conll(tmp_path / "corpus" / "test.conll", [(words, ["B-LOC", "I-LOC", "O"])])
    task, loaded, notes = create(tmp_path)
    assert task.objective.spec.labels == tiny.LABELS
    assert not any(name.startswith("head/") for name in loaded) and "encoder/embeddings/word/embedding" in loaded
    assert "head: new, 5 classes (LOC, PER)" in notes


def test_a_head_whose_labels_are_those_of_the_data_is_kept_with_its_order(tmp_path: pathlib.Path) -> None:
    own = ("I-PER", "B-LOC", "O", "I-LOC", "B-PER")
    tiny.write_weights(tmp_path / "weights", labels=own, seed=3)
    task, loaded, notes = create(tmp_path)
    assert task.objective.spec.labels == own
    wanted = tiny.random_params(tiny.ENCODER, 5, seed=3)
    np.testing.assert_array_equal(loaded["head/kernel"], wanted["head/kernel"])
    np.testing.assert_array_equal(loaded["head/bias"], wanted["head/bias"])
    assert any("head: loaded" in note for note in notes)
    rows, sentences = task.encoded["test"].per_word(task.datasets["test"].labels), task.sentences["test"]
    assert [[own[label] for label in row] for row in rows] == [list(sentence.tags) for sentence in sentences]


@pytest.mark.parametrize("labels", [("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG"), ("LABEL_0", "LABEL_1")])
def test_a_head_of_other_labels_is_not_used(tmp_path: pathlib.Path, labels: tuple[str, ...]) -> None:
    tiny.write_weights(tmp_path / "weights", labels=labels)
    task, loaded, notes = create(tmp_path)
    assert task.objective.spec.labels == tiny.LABELS
    assert not any(name.startswith("head/") for name in loaded)
    assert any("head: new" in note for note in notes)


def test_a_saved_task_opens_again(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tmp_path, task__context="document", model__dropout=0.25)
    task.save(tmp_path / "run")
    definition, spec = registry.read_spec(tmp_path / "run", {})
    assert definition.name == "ner" and spec == task.objective.spec
    assert spec.encoder.dropout == spec.encoder.attention_dropout == 0.25
    predictor = definition.predictor(tmp_path / "run", spec)
    assert isinstance(predictor, NerPredictor)
    words = [["ada", "met", "unknown!", "Ghent"]]
    assert encode_words(predictor.tokenizer, words) == encode_words(task.tokenizer, words)


# What it refuses.


def refusal(folder: pathlib.Path, **overrides: Any) -> str:
    with pytest.raises(UserError) as caught:
        create(folder, **overrides)
    return str(caught.value)


def test_a_label_unseen_in_training_is_named_with_its_place(tmp_path: pathlib.Path) -> None:
    tiny.write_corpus(tmp_path / "corpus")
    path = tmp_path / "corpus" / "valid.conll"
    tiny.write_conll(path, [(["a", "b"], ["O", "O"]), (["ada", "c"], ["B-LOG", "O"])])
    message = refusal(tmp_path)
    assert message.startswith(f"{path}:4: the label 'B-LOG' (word 'ada'") and "'B-LOC'" in message


def test_data_that_cannot_be_trained_on_is_refused(tmp_path: pathlib.Path) -> None:
    corpus = tmp_path / "corpus"
    tiny.write_conll(corpus / "test.conll", tiny.sentences(3, 0))
    assert "has no split 'train' (found: test)" in refusal(tmp_path)
    (corpus / "train.conll").write_text("\n\n")
    assert refusal(tmp_path).startswith(f"{corpus / 'train.conll'}: the split is empty")
    tiny.write_conll(corpus / "train.conll", [(["a", "b"], ["O", "O"])])
    assert "has no entity at all" in refusal(tmp_path)


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "weights", dataclasses.replace(tiny.ENCODER, vocab_size=len(tiny.VOCABULARY) - 1))
    message = refusal(tmp_path)
    assert f"the tokenizer has {len(tiny.VOCABULARY)} entries, the word embedding {len(tiny.VOCABULARY) - 1}" in message
    tiny.write_weights(tmp_path / "weights")
    (tmp_path / "weights" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "cls_token": null}'
    )
    assert "has no cls_token" in refusal(tmp_path)


def test_windows_that_fit_nowhere_are_refused(tmp_path: pathlib.Path) -> None:
    assert "config.data.window: 49 tokens do not fit config.data.row_length (48" in refusal(tmp_path, data__window=49)
    message = refusal(tmp_path, data__row_length=96, data__window=65)
    assert "config.data.window: 65 tokens do not fit the encoder (64" in message
    assert create(tmp_path, data__row_length=96)[0].objective.spec.window == 64  # the default follows the encoder
    message = refusal(tmp_path, data__window=20, task__overlap=18)
    assert "config.task.overlap: 18" in message and "at most 17" in message
    assert create(tmp_path, data__window=20, task__overlap=17)
