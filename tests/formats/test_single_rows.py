"""Packed rows through a program of single texts: every token and text gets its own value back."""

from collections.abc import Mapping

import numpy as np

from jaxfm.formats.single_rows import of_texts, of_tokens

# Two texts and padding; one text of a full row; a row of nothing, which fills up a batch.
TOKENS = np.asarray([[11, 12, 13, 21, 22, 0], [31, 32, 33, 34, 35, 36], [0, 0, 0, 0, 0, 0]])
SEGMENTS = np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])


def program(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Says of each token its number, its text's sum and its type: with a token of another text sums would differ."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert (mask.sum(axis=1) == (ids > 0).sum(axis=1)).all()
    sums = np.broadcast_to((ids * mask).sum(axis=1, keepdims=True), ids.shape)
    return {"logits": np.stack([ids, sums, inputs["token_type_ids"]], axis=-1).astype(np.float32)}


def test_each_token_has_its_own_value() -> None:
    types = np.asarray([[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    found = of_tokens(program, {"tokens": TOKENS, "segment_ids": SEGMENTS, "type_ids": types})
    assert np.array_equal(found[..., 0], TOKENS) and np.array_equal(found[..., 2], types)
    assert found[..., 1].tolist() == [[36, 36, 36, 43, 43, 0], [201] * 6, [0] * 6]


def test_each_text_has_its_own_value() -> None:
    def of_rows(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": program(inputs)["logits"][:, 0, :2]}

    found = of_texts(of_rows, {"tokens": TOKENS, "segment_ids": SEGMENTS}, 3)
    assert found.shape == (3, 3, 2)
    assert found[0].tolist() == [[11, 36], [21, 43], [0, 0]]
    assert found[1].tolist() == [[31, 201], [0, 0], [0, 0]] and not found[2].any()


def test_many_texts_are_run_in_groups_of_like_length() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 400, 60)
    segments = (np.arange(400) < lengths[:, None]).astype(np.int64)
    tokens = draw.integers(1, 99, segments.shape) * segments
    calls = []

    def counted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(inputs["input_ids"].shape)
        return program(inputs)

    found = of_tokens(counted, {"tokens": tokens, "segment_ids": segments})
    assert np.array_equal(found[..., 0], tokens)
    assert len(calls) > 3 and all(rows * longest <= 4096 for rows, longest in calls)
    assert sum(rows * longest for rows, longest in calls) < 1.3 * segments.sum()
