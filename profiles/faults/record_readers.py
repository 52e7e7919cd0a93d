"""The readers of data: every format of files, as the tasks read their records."""

import functools
import io
import json
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxfm.data.corpora.source_text import find_records, find_text
from jaxfm.data.images.decoding import decode
from jaxfm.data.images.examples import read_images
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.records.corpus_texts import corpus_file
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.questions import read_questions
from jaxfm.data.records.relations import read_relations
from jaxfm.data.records.source_unlabelled import Wanted, read_unlabelled
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.text_groups import read_groups
from profiles.faults import mutations
from profiles.faults.readers import BYTES, JSON, JSON_LINES, TEXT, Reader, exhaust, require_inside, texts

_CONLL = (
    "-DOCSTART- -X- -X- O\n\nAda NNP B-NP B-PER\nmet VBD B-VP O\nBob NNP B-NP B-PER\n\nRome NNP B-NP B-LOC\n. . O O\n",
    "Ada\tB-PER\nLovelace\tI-PER\nmet\tO\n\n#topic\tO\nin\tO\nRome\tB-LOC\n",
    "word tag\nAda S-PER\nsaw O\nNew B-LOC\nYork E-LOC\n\nit O\n",
    "Ada _ _ B-PER\nmet _ _ O\n\nBob _ _ I-PER\n",
)
_CONLLU = (
    "# newdoc id = 1\n# text = Ada met Bob\n1\tAda\tAda\tPROPN\t_\t_\t2\tnsubj\t_\tner=B-PER\n"
    "2\tmet\tmeet\tVERB\t_\t_\t0\troot\t_\tner=O\n3-4\tdel\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "3\tBob\tBob\tPROPN\t_\t_\t2\tobj\t_\tSpaceAfter=No|ner=B-PER\n3.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    "1\tRome\tRome\tPROPN\t_\t_\t0\troot\t_\tner=B-LOC\n",
    "1 Ada B-PER\n2 met O\n\n1 Rome B-LOC\n2 fell O\n",
)
_BRAT_TEXT = "Ada Lovelace met Bob.\r\nThey went to New York.\n"
_BRAT_MARKS = (
    "T1\tPER 0 12\tAda Lovelace\nT2\tPER 17 20\tBob\nT3\tLOC 36 44\tNew York\nR1\tmet Arg1:T1 Arg2:T2\n",
    "T1\tPER 0 3;4 12\tAda Lovelace\n#1\tAnnotatorNotes T1\tnote\nA1\tNegation T1\n",
)
_TAGGED_LINES = (
    '{"tokens": ["Ada", "met", "Bob"], "ner_tags": ["B-PER", "O", "B-PER"]}\n{"tokens": ["Hi"], "ner_tags": ["O"]}\n',
    '{"tokenized_text": ["Ada", "met", "Bob"], "ner": [[0, 0, "PER"], [2, 2, "PER"]]}\n',
    '{"text": "Ada met Bob", "entities": [{"start": 0, "end": 3, "label": "PER"}, [8, 11, "PER"]]}\n',
    '{"id": 1, "text": "Ada met Bob", "label": [[0, 3, "PER"], [8, 11, "PER"]], "Comments": []}\n',
    '{"text": "Ada met Bob", "entities": [{"id": 4, "start_offset": 0, "end_offset": 3, "label": "PER"}]}\n',
    '{"text": "Ada met Bob", "spans": [{"start": 0, "end": 3, "label": "PER", "token_start": 0}], '
    '"answer": "accept"}\n',
    '{"text": "Ada met Bob", "label": [{"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}]}\n',
    '{"text": "Ada met Bob", "label": {"PER": {"Ada": [[0, 2]], "Bob": [[8, 10]]}}}\n',
    '["Ada met Bob", {"entities": [[0, 3, "PER"]]}]\n["Hi Bob", {"entities": [[3, 6, "PER"]]}]\n',
    '{"tokens": ["Ada", "met"], "entities": [{"start": 0, "end": 1, "type": "PER"}], "doc_id": "a"}\n',
)
_TAGGED_JSON = (
    '[{"id": 1, "data": {"text": "Ada met Bob"}, "annotations": [{"result": [{"value": {"start": 0, "end": 3, "text": '
    '"Ada", "labels": ["PER"]}, "type": "labels"}], "was_cancelled": false}]}]',
    '{"classes": ["PER"], "annotations": [["Ada met Bob", {"entities": [[0, 3, "PER"]]}], null]}',
    '[{"text": "Ada met Bob", "entities": [[0, 3, "PER"]]},\n {"text": "Hi", "entities": []}]',
    '{"text": "Ada met Bob",\n "entities": [[0, 3, "PER"]]}\n{"text": "Hi",\n "entities": []}\n',
)
_TAGGED_CELLS = (
    "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NNP,B-PER\n,met,VBD,O\nSentence: 2,Bob,NNP,B-PER\n",
    "text,start,end,label\nAda met Bob,0,3,PER\nAda met Bob,8,11,PER\n",
    'tokens,ner_tags\n"[\'Ada\', \'met\']","[\'B-PER\', \'O\']"\n"[""Bob""]","[""B-PER""]"\n',
    'id,text,label\n1,Ada met Bob,"[[0, 3, ""PER""]]"\n2,"Hi, ""you""",[]\n',
)
_EXAMPLE_CELLS = (
    'text,label\n"good, really",1\nbad,0\n"a ""quote""",1\nmore,0\n',
    "sentence1,sentence2,label\nAda met Bob,Bob met Ada,yes\nhello,bye,no\n",
    "text,label\nfine,2.5\npoor,0.5\n",
)
_EXAMPLE_LINES = (
    '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n',
    '{"sentence1": "good", "sentence2": "so", "label": 1}\n{"sentence1": "bad", "sentence2": "", "label": 0}\n',
)
_MULTI_LINES = (
    '{"text": "good", "labels": ["a", "b"]}\n{"text": "bad", "labels": []}\n{"text": "so", "labels": ["b"]}\n',
    '{"text": "good", "labels": "a|b"}\n{"text": "bad", "labels": "c"}\n',
    '{"text": "good", "labels": "[\'a\', \'b\']"}\n{"text": "bad", "labels": "[\'c\']"}\n',
    '{"text": "good", "labels": [0, 1, 1]}\n{"text": "bad", "labels": [1, 0, 0]}\n',
)
_SQUAD = (
    '{"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "Ada met Bob in Rome.", "qas": [{"id": '
    '"q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}, {"id": "q2", "question": "When?", '
    '"is_impossible": true, "answers": []}]}]}, {"title": "U", "paragraphs": [{"context": "It rained.", "qas": '
    '[{"id": "q3", "question": "What?", "answers": [{"text": "rained", "answer_start": 3}]}]}]}]}',
    '{"id": "1", "question": "Who?", "context": "Ada met Bob", "answers": {"text": ["Ada"], "answer_start": [0]}}\n'
    '{"id": "2", "question": "Why?", "context": "It rained", "answers": {"text": [], "answer_start": []}}\n',
    '{"question": "Who?", "context": "Ada met Bob", "answer": "Ada", "answer_start": 0, "title": "T"}\n',
)
_RELATIONS = (
    '{"text": "Ada met Bob", "head": {"start": 0, "end": 3, "type": "PER"}, "tail": {"start": 8, "end": 11, "type": '
    '"PER"}, "relation": "meet(e1,e2)"}\n{"text": "Ada saw Bob", "head": {"start": 0, "end": 3}, "tail": {"start": 8, '
    '"end": 11}, "relation": "Other"}\n',
    '{"token": ["Ada", "met", "Bob"], "subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2, "subj_type": '
    '"PER", "obj_type": "PER", "relation": "per:meet"}\n',
    '{"text": "Ada met Bob", "entities": [[0, 3, "PER"], [8, 11, "PER"]], "relations": [{"head": 0, "tail": 1, "type": '
    '"meet"}]}\n',
    '{"sentence": "<e1>Ada</e1> met <e2>Bob</e2>", "relation": "meet(e1,e2)"}\n',
)
_SEMEVAL = (
    '1\t"The <e1>cup</e1> holds <e2>tea</e2>."\nContent-Container(e2,e1)\nComment: none\n\n'
    '2\t"A <e1>cat</e1> saw a <e2>dog</e2>."\nOther\nComment:\n\n',
)
_GROUPS = (
    '{"anchor": "who met Bob", "positive": "Ada met Bob", "negative": "it rained"}\n'
    '{"anchor": "what fell", "positive": "rain fell", "negative": ["Ada", "Bob"]}\n',
    '{"query": "who met Bob", "pos": ["Ada met Bob", "Ada"], "neg": ["it rained", "rain"]}\n',
    '{"sentence1": "Ada met Bob", "sentence2": "Bob met Ada", "score": 4.0}\n{"sentence1": "a", "sentence2": "b", '
    '"score": 1}\n',
    '{"query": "who", "passages": ["Ada", "rain"], "scores": [0.9, 0.1]}\n',
)
_DIALOGUES = (
    '{"dialogue": [{"speaker": "USER", "text": "Hi"}, {"speaker": "SYSTEM", "text": "Hello"}, {"speaker": "USER", '
    '"text": "Bye"}]}\n{"turns": ["Hi", "Hello", "Bye"]}\n',
    '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", '
    '"value": "So?"}]}\n',
    '[{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", '
    '"content": ""}, {"role": "tool", "content": "So"}]}]',
)
_UNLABELLED = (
    '{"id": 7, "text": "Ada met Bob", "title": "T", "answer": "Ada"}\n{"id": "b", "text": "Rome"}\n',
    '{"tokens": ["Ada", "met"]}\n{"text": "Bob", "tokens": ["Bob"]}\n',
    '{"question": "who", "answer": "Ada"}\n{"question": "why", "answer": null, "title": ""}\n',
)
_PLAIN = ("Ada met Bob.\nIt rained.\n\nRome fell.\n\n\nNot in a day.\n", "one\ttwo\nthree\tfour\n", "only this line")


def _tagged(scheme: str, file: str) -> Any:
    return lambda folder: read_tagged(f"{scheme}:{folder / file}", None)


def _brat(folder: pathlib.Path) -> Any:
    return read_tagged(f"brat:{folder}", None)


def _with_file(name: str, content: str) -> Any:
    return lambda folder: (folder / name).write_text(content, newline="")


def _examples(scheme: str, file: str, kind: str, holdout: float | None = 0.0) -> Any:
    return lambda folder: read_examples(
        f"{scheme}:{folder / file}", None, columns=ExampleColumns(), kind=kind, holdout=holdout
    )


def _groups(folder: pathlib.Path, kind: str = "pairs") -> Any:
    return read_groups(f"jsonl:{folder / 'train.jsonl'}", None, columns=GroupColumns(), kind=kind)


def _dialogues(folder: pathlib.Path) -> Any:
    source = f"dialogue:{folder / 'train.jsonl'}"
    options = DialogueOptions(responder="")
    return read_groups(source, None, columns=GroupColumns(), kind="pairs", dialogue=options)


def _unlabelled(file: str, **options: Any) -> Any:
    return lambda folder: exhaust(read_unlabelled(folder / file, Wanted(**options)))


def _corpus(folder: pathlib.Path) -> int:
    return exhaust(corpus_file(folder / "corpus.jsonl").read())


def _documents(folder: pathlib.Path) -> int:
    streams = find_text(str(folder / "train.txt"), "")
    return sum(exhaust(read()) for read in streams.splits.values())


def _document_records(folder: pathlib.Path) -> int:
    streams = find_records("parquet", str(folder / "train.parquet"), "")
    return sum(exhaust(read()) for read in streams.splits.values())


def pictures() -> list[bytes]:
    """Returns small image files of every kind that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 4)).astype(np.uint8)
    found = []
    for form, mode in (
        *(("PNG", mode) for mode in ("RGBA", "L", "P", "1", "I;16")),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        *((form, "RGB") for form in ("GIF", "WEBP", "BMP", "TIFF", "PPM")),
    ):
        file = io.BytesIO()
        base = Image.fromarray(pixels)
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200) if mode == "I;16" else base.convert(mode)
        picture.save(file, form)
        found.append(file.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels[..., :3]).save(file, "JPEG", exif=exif)
    return [*found, file.getvalue()]


def _image(folder: pathlib.Path) -> Any:
    return decode(StoredImage(str(folder / "x.img"), path=folder / "x.img"), 3)


def _write_images(folder: pathlib.Path) -> None:
    """Writes images beside a table, one outside its folder, and links to that one and to the folder above."""
    content = pictures()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(content[number])
    (folder.parent / "outside.png").write_bytes(content[0])
    (folder / "link.png").symlink_to("../outside.png")
    (folder / "up").symlink_to("..")


def _image_table(folder: pathlib.Path) -> None:
    found = read_images(f"csv:{folder / 'train.csv'}", None, labels="single", texts=False)
    for split in found.values():
        require_inside(folder, (example.image.path for example in split.examples))
        for example in split.examples:
            decode(example.image, 3)


def _shard_seeds() -> list[bytes]:
    content = pictures()
    found = []
    for names in (("a.png", "a.cls", "b.jpg", "b.cls"), ("d/a.png", "d/a.json", "d/a.txt", "../e.png", "/f.png")):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for number, name in enumerate(names):
                data = {"cls": str(number).encode(), "txt": b"a caption", "json": b'{"cls": "1", "n": [1]}'}.get(
                    name.rpartition(".")[2], content[number]
                )
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            link = tarfile.TarInfo("z.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        found.append(file.getvalue())
    return found


def _image_shards(folder: pathlib.Path) -> None:
    found = read_images(f"webdataset:{folder / 'train.tar'}", None)
    for split in found.values():
        require_inside(folder, (example.image.path for example in split.examples))
        for example in split.examples:
            decode(example.image, 3)


def _parquet(*numbers: int) -> Any:
    return lambda: [_parquet_seeds()[number] for number in numbers]


@functools.cache
def _parquet_seeds() -> Sequence[bytes]:
    import pyarrow
    import pyarrow.parquet

    features: Any = {
        "info": {"features": {"label": {"names": ["neg", "pos"]}, "ner_tags": [{"names": ["O", "B-PER"]}]}}
    }
    tables = (
        ({"text": ["good", "bad", "fine"], "label": [1, 0, 1]}, "none", features),
        ({"text": ["good", "bad"], "label": ["a", "b"]}, "snappy", None),
        (
            {"tokens": [["Ada", "met"], ["Bob"]], "ner_tags": [[1, 0], [1]], "text": ["Ada met", "Bob"]},
            "zstd",
            features,
        ),
        ({"text": ["a"] * 50, "meta": [{"x": 1, "y": [2.0]}] * 50, "label": ["a", "b"] * 25}, "gzip", None),
    )
    found = []
    for columns, compression, told in tables:
        table = pyarrow.table(columns)
        if told:
            table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
        file = io.BytesIO()
        pyarrow.parquet.write_table(table, file, compression=compression)
        found.append(file.getvalue())
    return found


READERS = (
    Reader("conll", "train.conll", texts(*_CONLL), _tagged("conll", "train.conll"), TEXT, share=700),
    Reader("conllu", "train.conllu", texts(*_CONLLU), _tagged("conll", "train.conllu"), TEXT, share=400),
    Reader(
        "brat",
        "train.ann",
        texts(*_BRAT_MARKS),
        _brat,
        TEXT,
        prepare=_with_file("train.txt", _BRAT_TEXT),
        share=300,
    ),
    Reader(
        "brat_text",
        "train.txt",
        texts(_BRAT_TEXT),
        _brat,
        TEXT,
        prepare=_with_file("train.ann", _BRAT_MARKS[0]),
        share=200,
    ),
    Reader("tagged_csv", "train.csv", texts(*_TAGGED_CELLS), _tagged("csv", "train.csv"), TEXT, share=500),
    Reader(
        "tagged_jsonl", "train.jsonl", texts(*_TAGGED_LINES), _tagged("jsonl", "train.jsonl"), JSON_LINES, share=900
    ),
    Reader("tagged_json", "train.json", texts(*_TAGGED_JSON), _tagged("jsonl", "train.json"), JSON, share=500),
    Reader("csv", "train.csv", texts(*_EXAMPLE_CELLS), _examples("csv", "train.csv", "single"), TEXT, share=500),
    Reader(
        "csv_held_out",
        "train.csv",
        texts(_EXAMPLE_CELLS[0]),
        _examples("csv", "train.csv", "single", None),
        TEXT,
        share=100,
    ),
    Reader(
        "tsv",
        "train.tsv",
        texts("text\tlabel\ngood, really\ta|b\nbad\tc\n\nso\ta\n", "sentence1\tsentence2\tlabels\na\tb\tx\nc\td\ty\n"),
        _examples("tsv", "train.tsv", "multi"),
        TEXT,
        share=400,
    ),
    Reader(
        "scores",
        "train.csv",
        texts(_EXAMPLE_CELLS[0], _EXAMPLE_CELLS[2]),
        _examples("csv", "train.csv", "regression"),
        TEXT,
        share=200,
    ),
    Reader(
        "jsonl",
        "train.jsonl",
        texts(*_EXAMPLE_LINES),
        _examples("jsonl", "train.jsonl", "single"),
        JSON_LINES,
        share=600,
    ),
    Reader(
        "jsonl_multi",
        "train.jsonl",
        texts(*_MULTI_LINES),
        _examples("jsonl", "train.jsonl", "multi"),
        JSON_LINES,
        share=300,
    ),
    Reader(
        "questions",
        "train.json",
        texts(*_SQUAD),
        lambda folder: read_questions(f"jsonl:{folder / 'train.json'}", None, holdout=0.5),
        (*JSON, mutations.of_json_lines),
        share=500,
    ),
    Reader(
        "relations",
        "train.jsonl",
        texts(*_RELATIONS),
        lambda folder: read_relations(f"jsonl:{folder / 'train.jsonl'}", None),
        JSON_LINES,
        share=500,
    ),
    Reader(
        "semeval",
        "train.txt",
        texts(*_SEMEVAL),
        lambda folder: read_relations(f"semeval:{folder / 'train.txt'}", None),
        TEXT,
        share=200,
    ),
    Reader("groups", "train.jsonl", texts(*_GROUPS[:2]), _groups, JSON_LINES, share=400),
    Reader(
        "group_scores",
        "train.jsonl",
        texts(_GROUPS[2]),
        functools.partial(_groups, kind="scored"),
        JSON_LINES,
        share=200,
    ),
    Reader(
        "teacher_scores",
        "train.jsonl",
        texts(*_GROUPS[3:]),
        functools.partial(_groups, kind="teacher"),
        JSON_LINES,
        share=200,
    ),
    Reader("dialogues", "train.jsonl", texts(*_DIALOGUES), _dialogues, JSON_LINES, share=300),
    Reader("input_txt", "in.txt", texts(*_PLAIN), _unlabelled("in.txt"), TEXT, share=150),
    Reader("input_pairs", "in.txt", texts(_PLAIN[1]), _unlabelled("in.txt", pairs=True), TEXT, share=150),
    Reader(
        "input_jsonl", "in.jsonl", texts(*_UNLABELLED[:2]), _unlabelled("in.jsonl", words=True), JSON_LINES, share=300
    ),
    Reader("input_csv", "in.csv", texts(_EXAMPLE_CELLS[0], _EXAMPLE_CELLS[2]), _unlabelled("in.csv"), TEXT, share=200),
    Reader("input_conll", "in.conllu", texts(*_CONLLU, *_CONLL), _unlabelled("in.conllu", words=True), TEXT, share=200),
    Reader("search_corpus", "corpus.jsonl", texts(_UNLABELLED[0], _UNLABELLED[2]), _corpus, JSON_LINES, share=200),
    Reader("documents", "train.txt", texts(*_PLAIN), _documents, TEXT, share=300),
    Reader(
        "parquet", "train.parquet", _parquet(0, 1, 3), _examples("parquet", "train.parquet", "single"), BYTES, share=200
    ),
    Reader("tagged_parquet", "train.parquet", _parquet(2), _tagged("parquet", "train.parquet"), BYTES, share=100),
    Reader("document_parquet", "train.parquet", _parquet_seeds, _document_records, BYTES, share=100),
    Reader("images", "x.img", pictures, _image, BYTES, share=200, mebibytes=1200),
    Reader(
        "image_table",
        "train.csv",
        texts(
            "image,label\n0.png,a\n1.png,b\nlink.png,a\n",
            "image,label\n2.png,a\nup/images/0.png,b\n../outside.png,a\n",
            "file_name,label\n0.png,a\n1.png,b\n/etc/passwd,c\n",
            "image,label\n0.png,a\n./1.png,b\n",
        ),
        _image_table,
        TEXT,
        prepare=_write_images,
        share=200,
        mebibytes=1200,
    ),
    Reader("image_shards", "train.tar", _shard_seeds, _image_shards, BYTES, share=200, mebibytes=1200),
)
