"""The Python of the pages: it parses, its imports exist, and the converters of labelling tools do what they say."""

import ast
import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import pytest

from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import read_tagged
from tests.docs.pages import Block, blocks, cells, headings, pages, text

SNIPPETS = [block for page in pages() for block in blocks(page, text(page)) if block.language == "python"]
SNIPPETS += cells("docs/quickstart.ipynb")
TOOLS = "docs/howto/labelling_tools.md"
# What a page may import though the tests' environment lacks it; `run` is a file of an exported StableHLO program.
OPTIONAL = ("peft", "optimum.onnxruntime", "run")


@pytest.mark.parametrize("block", SNIPPETS, ids=lambda block: block.where)
def test_it_parses_and_its_imports_exist(block: Block) -> None:
    missing = []
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            missing += [alias.name for alias in node.names if not exists(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module not in OPTIONAL:
            module = importlib.import_module(str(node.module))
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not has(module, alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxfm":
            missing += [] if has(importlib.import_module("jaxfm"), node.attr) else [f"jaxfm.{node.attr}"]
    assert not missing


def exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def has(module: types.ModuleType, name: str) -> bool:
    # dir first: to get a model class of transformers is to import torch.
    return name in dir(module) or hasattr(module, name)


def converter(heading: str) -> str:
    """The program under a heading of the page on labelling tools."""
    (section,) = (part for part in text(TOOLS).split("\n### ") if part.startswith(heading))
    (block,) = (block for block in blocks(TOOLS, section) if block.language == "python")
    return block.text


def converted(heading: str, export: Any, folder: pathlib.Path) -> str:
    """Runs a converter on an export; returns the source that it has made."""
    program = folder / "convert.py"
    program.write_text(converter(heading), encoding="utf-8")
    if isinstance(export, list):
        lines = [json.dumps(record, ensure_ascii=False) for record in export]
        (folder / "export.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        (folder / "export.json").write_text(json.dumps(export["tasks"]), encoding="utf-8")
    subprocess.run([sys.executable, program.name], cwd=folder, check=True)
    return f"jsonl:{folder}/train.jsonl"


CLASSES = {
    "doccano, one label": [
        {"id": 1, "text": "Ünder way.", "label": ["delivery"]},
        {"id": 2, "text": "Nobody has labelled it.", "label": []},
        {"id": 3, "text": "Too much.", "label": ["billing"]},
    ],
    "Prodigy, choices": [
        {"text": "Ünder way.", "accept": ["delivery"], "answer": "accept", "options": []},
        {"text": "Left out.", "accept": ["billing"], "answer": "reject", "options": []},
        {"text": "Too much.", "accept": ["billing"], "answer": "accept", "options": []},
    ],
    "Argilla, one label": [
        {
            "text": "Ünder way.",
            "label.responses": ["delivery", "delivery"],
            "label.responses.status": ["submitted"] * 2,
        },
        {"text": "They disagree.", "label.responses": ["delivery", "billing"]},
        {"text": "Nobody has labelled it.", "label.responses": None},
        {"text": "Too much.", "label.responses": ["billing"]},
    ],
}


@pytest.mark.parametrize("heading", CLASSES)
def test_a_converter_gives_a_class_each(heading: str, tmp_path: pathlib.Path) -> None:
    source = converted(heading, CLASSES[heading], tmp_path)
    read = read_examples(source, None, columns=ExampleColumns(), kind="single")["train"].examples
    assert [(example.text, example.target) for example in read] == [
        ("Ünder way.", "delivery"),
        ("Too much.", "billing"),
    ]


def test_the_converter_of_label_studio_gives_several_classes(tmp_path: pathlib.Path) -> None:
    tasks = [
        {"id": 1, "text": "Late and too dear.", "topics": {"choices": ["delivery", "billing"]}},
        {"id": 2, "text": "Too dear.", "topics": "billing"},
        {"id": 3, "text": "Hello."},
    ]
    source = converted("Label Studio, several choices", {"tasks": tasks}, tmp_path)
    read = read_examples(source, None, columns=ExampleColumns(), kind="multi")["train"].examples
    assert [example.target for example in read] == [("delivery", "billing"), ("billing",), ()]


TEXT = "Ünal Şen met Ada in Ghent."
ENTITIES = {
    "SageMaker Ground Truth": {
        "source": TEXT,
        "my-labeling-job": {
            "annotations": {
                "entities": [
                    {"startOffset": 0, "endOffset": 8, "label": "PER"},
                    {"startOffset": 20, "endOffset": 25, "label": "LOC"},
                ]
            }
        },
        "my-labeling-job-metadata": {"type": "groundtruth/text-span"},
    },
    "Vertex AI": {
        "textContent": TEXT,
        "textSegmentAnnotations": [
            {"endOffset": 8, "displayName": "PER"},
            {"startOffset": "20", "endOffset": "25", "displayName": "LOC"},
        ],
    },
    "spaCy": {
        "text": TEXT,
        "ents": [{"start": 0, "end": 8, "label": "PER"}, {"start": 20, "end": 25, "label": "LOC"}],
        "tokens": [{"id": 0, "start": 0, "end": 4}],
    },
}


@pytest.mark.parametrize("heading", ENTITIES)
def test_a_converter_gives_entities(heading: str, tmp_path: pathlib.Path) -> None:
    source = converted(heading, [ENTITIES[heading]], tmp_path)
    (sentence,) = read_tagged(source, ["train"])["train"].sentences
    found = dict(zip(sentence.words, sentence.tags, strict=True))
    assert {word: tag for word, tag in found.items() if tag != "O"} == {
        "Ünal": "B-PER",
        "Şen": "I-PER",
        "Ghent": "B-LOC",
    }


def test_every_converter_of_the_page_is_tested() -> None:
    programs = [block for block in blocks(TOOLS, text(TOOLS)) if block.language == "python"]
    tested = [*CLASSES, *ENTITIES, "Label Studio, several choices"]
    assert len(tested) == len(programs)
    assert all(any(found.startswith(heading) for found in headings(text(TOOLS))) for heading in tested)
