"""A validation split for a tagged source without one: whole documents of its training split."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.sources import TaggedSentence, TaggedSplit, available_splits, read_tagged
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import require_split
from jaxfm.data.records.tagged_builder import Columns

FEW = 20  # sentences: a score on fewer is too uncertain


def read_splits(
    source: str, splits: Sequence[str] | None, *, columns: Columns, holdout: float | None, by: SplitKeys = NO_KEYS
) -> dict[str, TaggedSplit]:
    """Reads the splits asked for, None for all that a source has; `valid` is held out of `train` if it is absent.

    Args:
      source: see `read_tagged`, which also says what it raises.
      splits: names of splits.
      columns: which columns to read.
      holdout: the share of the documents of train that become valid; 0 for none, None: by size (`holdout_share`).
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.
    """
    wanted = None if splits is None else [require_split(split) for split in splits]
    check_source(source, by, splits)
    if by:
        return _divided(source, wanted, columns, holdout, by)
    if wanted is not None and holdout != 0 and set(wanted) & {"train", "valid"}:
        found = available_splits(source, columns)
        if "valid" not in found and "train" in found:
            others = [split for split in wanted if split not in ("train", "valid")]
            both = hold_out(read_tagged(source, ["train", *others], columns=columns), holdout)
            if "valid" in both:
                return {split: both[split] for split in wanted}
    read = read_tagged(source, wanted, columns=columns)
    if wanted is None and holdout != 0 and "train" in read and "valid" not in read:
        return hold_out(read, holdout)
    return read


def _divided(
    source: str, wanted: Sequence[str] | None, columns: Columns, holdout: float | None, by: SplitKeys
) -> dict[str, TaggedSplit]:
    """Returns the splits asked for, kept apart by groups and times."""
    found = available_splits(source, columns)
    held_out = holdout != 0 and "valid" not in found and "train" in found
    names = [*(found if wanted is None else wanted)]
    if held_out:
        names = list(dict.fromkeys("train" if name == "valid" else name for name in names))
    read = read_tagged(source, names, columns=columns, by=by)
    divided = divide_source(
        source,
        {name: split.sentences for name, split in read.items()},
        by,
        given=found,
        holdout=holdout,
        origin=lambda sentence: sentence.origin,
        targets=lambda sentences: [tuple(_types([sentence])) for sentence in sentences],
    )
    splits = {}
    for name, own in divided.read.items():
        split = read.get(name) or TaggedSplit((), read["train"].scheme, f"valid: {len(own):,} sentences")
        sentences = tuple(own)
        if len(own) != len(split.sentences):
            documents, _ = _documents(own)  # what is left of one long document are no neighbours
            sentences = tuple(
                dataclasses.replace(sentence, document=number)
                for number, document in enumerate(documents.values())
                for sentence in document
            )
        splits[name] = dataclasses.replace(split, sentences=sentences, note=split.note + divided.notes[name])
    return {name: splits[name] for name in (splits if wanted is None else wanted)}


def hold_out(read: Mapping[str, TaggedSplit], holdout: float | None) -> dict[str, TaggedSplit]:
    """Returns the splits with `valid`, a share of the documents of `train` and at least one of them.

    They are taken in the order of a hash of their words, so the choice depends on no order of the source and equal
    documents are on one side. One that has all entities of some type stays in train. Where train is one document its
    sentences are taken, each a document. Without any that could be taken the splits are returned as they are, with a
    note.
    """
    train = read["train"]
    documents, what = _documents(train.sentences)
    share = holdout_share(holdout, len(documents))
    wanted = max(round(share * len(documents)), 1)
    equal: dict[float, list[int]] = collections.defaultdict(list)
    for number, document in documents.items():
        equal[uniform_hash("\n".join(" ".join(sentence.words) for sentence in document))].append(number)
    left = collections.Counter(_types(train.sentences))
    taken: set[int] = set()
    needed = 0
    for drawn in sorted(equal):
        if len(taken) >= wanted:
            break
        own = collections.Counter(_types(sentence for number in equal[drawn] for sentence in documents[number]))
        if any(left[kind] == count for kind, count in own.items()):
            needed += len(equal[drawn])
            continue
        if len(equal[drawn]) == len(documents) - len(taken) or len(equal[drawn]) > max(wanted - len(taken), 1):
            continue
        left -= own
        taken.update(equal[drawn])
    if not taken:
        note = f"{train.note}; nothing held out as valid: each of the {what} has the only entities of some type"
        return {**read, "train": dataclasses.replace(train, note=note)}
    valid = tuple(
        dataclasses.replace(sentence, document=number) for number in sorted(taken) for sentence in documents[number]
    )
    training = tuple(sentence for number in documents if number not in taken for sentence in documents[number])
    note = (
        f"valid: {len(valid):,} sentences, {len(_types(valid)):,} entities: {len(taken):,} of the {len(documents):,} "
        f"{what} of train, chosen by a hash of their words (data.holdout: {share:.1%})"
    )
    if needed:
        note += f"; {needed:,} stay in train, which has some types nowhere else"
    if len(valid) < FEW:
        note += "; a score of so few says little"
    return {
        "train": dataclasses.replace(
            train, sentences=training, note=f"{train.note}; without the {len(valid):,} of valid"
        ),
        "valid": TaggedSplit(valid, train.scheme, note),
        **{split: found for split, found in read.items() if split != "train"},
    }


def _documents(sentences: Sequence[TaggedSentence]) -> tuple[dict[int, list[TaggedSentence]], str]:
    """Returns the sentences by the number of their document, each by itself where all are one; and what these are."""
    documents: dict[int, list[TaggedSentence]] = collections.defaultdict(list)
    for sentence in sentences:
        documents[sentence.document].append(sentence)
    if len(documents) == 1 or len(documents) == len(sentences):
        return {number: [sentence] for number, sentence in enumerate(sentences)}, "sentences"
    return documents, "documents"


def _types(sentences: Iterable[TaggedSentence]) -> list[str]:
    """Returns the type of each entity."""
    return [
        kind
        for sentence in sentences
        for kind in (*(tag[2:] for tag in sentence.tags if tag[0] == "B"), *(span[2] for span in sentence.overlapping))
    ]
