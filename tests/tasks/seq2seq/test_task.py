"""From a source of pairs to rows: blocks, cut sources, controls, the learned tokenizer, and what is refused."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.held_out import ROLE, spread
from jaxfm.tasks.seq2seq.lengths import LengthRule, fit_lengths
from jaxfm.tasks.seq2seq.task import Seq2SeqTask
from jaxfm.training.initial import resolve
from tests import tiny

WORDS = tiny.FILLERS


def created(config: Config) -> Seq2SeqTask:
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, Seq2SeqTask)
    return task


def pairs_in(folder: pathlib.Path, records: list[dict[str, Any]], split: str = "train") -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_blocks_fit_all_targets_and_are_small() -> None:
    draw = np.random.default_rng(0)
    source = draw.integers(3, 40, 500)
    copied = fit_lengths(source, source, exact=True)
    assert (copied.block(source) == source + 1).all()
    halved = fit_lengths(source, source // 2, exact=True)
    assert (halved.block(source) >= source // 2 + 1).all() and (halved.block(source) - source // 2 - 1).mean() < 1
    constant = fit_lengths(source, np.full(500, 11), exact=True)
    assert (constant.block(source) == 12).all() and constant.most == 12
    # One odd pair of 500 does not make all blocks long.
    odd = np.append(source, 5), np.append(source, 200)
    rule = fit_lengths(*odd, exact=True)
    assert rule.block(source).mean() < source.mean() + 3 and rule.most == 201
    assert fit_lengths(source, source, exact=False) == LengthRule(0.0, int(source.max()) + 1, int(source.max()) + 1)
    assert LengthRule(0.5, 2, 6).block(np.asarray([0, 1, 2, 3, 100])).tolist() == [2, 3, 3, 4, 6]


def test_rows_of_diffusion(tmp_path: pathlib.Path) -> None:
    """[CLS] source [SEP] target [SEP]...: separators fill the block; nothing of the source is predicted."""
    config = tiny.seq2seq_config(tmp_path)
    task = created(config)
    spec, tokens, rows = task.objective.spec, task.objective.tokens, task.training
    assert rows is not None and spec.encoder.sight == "full"
    pieces = task.tokenizer
    for pair, (row, segment, start) in zip(task.pairs["train"], rows.example_locations.tolist(), strict=True):
        source = pieces(pair.source, add_special_tokens=False)["input_ids"]
        target = pieces(pair.targets[0], add_special_tokens=False)["input_ids"]
        block = max(int(spec.lengths.block(np.asarray([len(source)]))[0]), len(target) + 1)
        whole = [tokens.opening, *source, tokens.separator, *target, *[tokens.separator] * (block - len(target))]
        inside = slice(start, start + len(whole))
        assert rows.tokens[row, inside].tolist() == whole and (rows.segment_ids[row, inside] == segment + 1).all()
        before = len(source) + 2
        assert rows.labels[row, inside].tolist() == [-1] * before + whole[before:]
        assert rows.type_ids is not None and rows.type_ids[row, inside].tolist() == [0] * before + [1] * block
    assert spec.targets == (rows.labels >= 0).sum(axis=1).max()
    assert dict(task.chosen) == {"data.row_length": 48, "eval.metric": "loss"}


def test_held_out_rows_come_with_targets_and_with_blank_ones(tmp_path: pathlib.Path) -> None:
    task = created(tiny.seq2seq_config(tmp_path, task__valid_written=3, task__test_written=0))
    valid, test = task.held_out["valid"], task.held_out["test"]
    assert valid.chosen.tolist() == [0, 5, 10] and len(test.chosen) == len(task.pairs["test"])
    batch = valid.take(np.arange(len(valid)))
    roles = batch[ROLE].tolist()
    assert roles == [1] * len(valid.scored) + [2] * len(valid.blank)
    assert batch["tokens"].shape == (len(valid), 48) and set(batch) == set(valid.spec)
    mask = task.objective.tokens.mask
    assert not (batch["tokens"][: len(valid.scored)] == mask).any()
    masks = (batch["tokens"] == mask)[len(valid.scored) :]
    np.testing.assert_array_equal(masks, (batch["labels"] >= 0)[len(valid.scored) :])
    none = created(tiny.seq2seq_config(tmp_path, task__valid_written=0)).held_out["valid"]
    assert len(none) == len(none.scored) and not len(none.chosen)
    assert spread(10, 4).tolist() == [0, 2, 5, 7] and spread(3, 9).tolist() == [0, 1, 2] and not len(spread(3, 0))


def test_the_end_of_a_long_source_is_cut_and_counted(tmp_path: pathlib.Path) -> None:
    records = [
        {"source": " ".join([WORDS[n % 12]] * (60 if n == 3 else 4)), "target": WORDS[n % 12]} for n in range(24)
    ]
    pairs_in(tmp_path / "text_pairs", records)
    task = created(tiny.seq2seq_config(tmp_path, data__holdout=0.0))
    assert "; 1 sources longer than what is read, whose end is cut" in " ".join(task.notes)
    spec = task.objective.spec
    assert spec.max_source == 48 - 2 - spec.lengths.most == 44 and task.training is not None
    row, _, start = task.training.example_locations[3]
    assert (task.training.tokens[row, start + 1 : start + 45] == task.training.tokens[row, start + 1]).all()
    assert f"sources: the first {spec.max_source} tokens" in " ".join(task.notes)


def test_longer_targets_are_left_out_where_a_limit_is_set(tmp_path: pathlib.Path) -> None:
    records = [{"source": WORDS[n % 12], "target": " ".join([WORDS[n % 12]] * (9 if n == 3 else 2))} for n in range(24)]
    pairs_in(tmp_path / "text_pairs", records)
    pairs_in(tmp_path / "text_pairs", records[2:6], "valid")
    task = created(tiny.seq2seq_config(tmp_path, task__max_target=4))
    assert len(task.pairs["train"]) == 23 and task.objective.spec.lengths.most == 3
    said = " ".join(task.notes)
    assert (
        "1 targets of more than 2 tokens left out" in said
        and "1 targets of more than 2 tokens cut for the loss" in said
    )


def test_controls_stand_before_the_source(tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(0)
    records = [
        {"source": WORDS[n % 12], "target": " ".join([WORDS[n % 12]] * int(draw.integers(1, 7))), "style": WORDS[n % 3]}
        for n in range(60)
    ]
    pairs_in(tmp_path / "text_pairs", records)
    config = tiny.seq2seq_config(
        tmp_path, task__controls=["length", "style"], task__control_dropout=0.0, data__holdout=0.1
    )
    task = created(config)
    controls = task.objective.spec.controls
    assert controls.names == ("length", "style") and controls.columns == ("style",) and len(controls.bounds) == 2
    pair = task.pairs["train"][0]
    length = controls.length_of(pair.targets[0])
    wanted = f"length: {length} | style: {pair.controls['style']} | {pair.source}"
    assert controls.training(pair.source, pair.controls, pair.targets[0], 0.0) == wanted
    assert controls.training(pair.source, pair.controls, pair.targets[0], 1.0) == pair.source
    shares = [controls.length_of(record["target"]) for record in records]
    assert min(shares.count(each) for each in ("short", "medium", "long")) > 10
    # Of held-out pairs no control is given that only the target tells.
    assert "length" not in controls.written("x", task.pairs["valid"][0].controls)
    for given, said in (
        ({"tone": "dry"}, "was not trained with the control 'tone'. Valid choices: 'length', 'style'"),
        ({"length": "shrt"}, "the control 'length' is 'shrt'. Did you mean 'short'?"),
        ({"style": ["a"]}, "the control 'style' is ['a'], but must be a text or a number"),
    ):
        with pytest.raises(UserError) as caught:
            controls.checked(given, "in.jsonl:3")
        assert str(caught.value).startswith("in.jsonl:3: ") and said in str(caught.value)


def test_a_tokenizer_is_learned_once_from_the_pairs(tmp_path: pathlib.Path) -> None:
    tiny.write_text_pairs(tmp_path / "text_pairs")
    scratch = {
        "model__init": "scratch",
        "model__preset": "bert_tiny",
        "model__tokenizer": "train:bpe/300",
        "data__cache": str(tmp_path / "cache"),
        "data__row_length": 128,
    }
    task = created(tiny.seq2seq_config(tmp_path, **scratch))
    assert any("tokenizer: learned from train (train:bpe/300)" in note for note in task.notes)
    assert task.objective.spec.encoder.vocab_size == len(task.tokenizer) <= 300
    (folder,) = (tmp_path / "cache" / "tokenizers").iterdir()
    before = (folder / "tokenizer.json").stat().st_mtime_ns
    created(tiny.seq2seq_config(tmp_path, **scratch))
    assert (folder / "tokenizer.json").stat().st_mtime_ns == before
    for tokenizer, said in (
        ("", "an encoder from scratch needs dir:PATH .* or train:wordpiece/SIZE or train:bpe/SIZE"),
        ("train:bep/300", "Did you mean 'bpe'"),
    ):
        with pytest.raises(UserError, match=said):
            created(tiny.seq2seq_config(tmp_path, **{**scratch, "model__tokenizer": tokenizer}))


def test_what_has_no_room_or_no_separator_is_refused(tmp_path: pathlib.Path) -> None:
    records = [
        {"source": WORDS[n % 12], "target": " ".join([WORDS[n % 12]] * (40 if n == 3 else 2))} for n in range(24)
    ]
    pairs_in(tmp_path / "text_pairs", records)
    with pytest.raises(UserError) as caught:
        created(tiny.seq2seq_config(tmp_path, data__holdout=0.0))
    path = tmp_path / "text_pairs" / "train.jsonl"
    assert str(caught.value) == (
        f"{path}:4: the target has 40 tokens, but a segment of 48 tokens has room for a target of at most 37 tokens "
        "beside a source of 8 (targets of train that are longer: 1). Raise config.data.row_length, or set "
        "config.task.max_target=37: longer ones are left out."
    )
    assert len(created(tiny.seq2seq_config(tmp_path, data__holdout=0.0, task__max_target=37)).pairs["train"]) == 23
    with pytest.raises(UserError, match="config.task.max_target: all targets of train have more than 1 tokens"):
        created(tiny.seq2seq_config(tmp_path, data__holdout=0.0, task__max_target=1))
    pairs_in(tmp_path / "text_pairs", [{"source": "a", "target": "b"}], "test")
    path.unlink()
    with pytest.raises(UserError, match="has no training split; it has test"):
        created(tiny.seq2seq_config(tmp_path, data__holdout=0.0))


def test_more_tokens_than_targets_have_cannot_be_asked_for(tmp_path: pathlib.Path) -> None:
    for value, said in (
        (5, "config.task.decoding.min_tokens: is 5, but targets have at most 4 tokens before their end. At most 4 is"),
        (5000, "config.task.decoding.min_tokens: is 5000, but must be below config.task.decoding.max_tokens (4096)"),
    ):
        records = [{"source": WORDS[n % 12], "target": " ".join([WORDS[n % 12]] * (n % 4 + 1))} for n in range(24)]
        pairs_in(tmp_path / "text_pairs", records)
        with pytest.raises(UserError) as caught:
            created(tiny.seq2seq_config(tmp_path, task__way="prefix", task__decoding__min_tokens=value))
        assert str(caught.value).startswith(said)


def test_a_tokenizer_without_separator_or_mask_is_refused(tmp_path: pathlib.Path) -> None:
    config = tiny.seq2seq_config(tmp_path)
    folder = tmp_path / "other"
    tiny.write_tokenizer(folder)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    for name, ways in (("sep_token", ("diffusion", "prefix")), ("mask_token", ("diffusion",))):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, name: None}))
        for way in ("diffusion", "prefix"):
            other = tiny.replaced(config, model__tokenizer=f"dir:{folder}", task__way=way)
            if way in ways:
                with pytest.raises(UserError, match=f"the tokenizer has no {name}, which an encoder's input needs"):
                    created(other)
            else:
                created(other)


def test_the_checks_before_training_say_what_is_odd(tmp_path: pathlib.Path) -> None:
    records = [{"source": WORDS[n % 12] + f" {WORDS[n // 12]}", "target": "Met"} for n in range(40)]
    records += [{"source": WORDS[n], "target": WORDS[n]} for n in range(12)]
    records += [{"source": " ".join([WORDS[n % 3]] * 60), "target": "in"} for n in range(3)]
    pairs_in(tmp_path / "text_pairs", records)
    pairs_in(tmp_path / "text_pairs", records[:10], "valid")
    config = tiny.seq2seq_config(tmp_path)
    check = registry.definition("seq2seq").check(config, resolve(config.model))
    found = {finding.check: finding for finding in check.findings}
    assert found["copies"].level == "warning" and "12 of 55" in found["copies"].message
    assert found["length"].level == "warning" and "train 3" in found["length"].message
    assert found["written as it is"].level == "warning" and "Met becomes met" in found["written as it is"].examples[0]
    assert found["leaks"].level == "error"
    assert check.tables[0].rows[0][:2] == ("train", 55)
