"""The same weights decoded in both ways: what task.decoding gives, as docs/ner.md has it.

  python -m profiles.ner_decoding --runs=runs/wnut17,runs/wikigold [--splits=valid,test] [--output=FILE.json]

Each run of NER is scored on its own splits, once with the likeliest tag of each word and once with the likeliest
sequence that is allowed.
"""

import dataclasses
import pathlib
from typing import Any

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.data.text.tagging import entity_spans, write_tags
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.ner.spec import ARGMAX, VITERBI
from jaxfm.tasks.ner.task import NerTask
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.saved_run import open_run
from profiles import command_line

COLUMNS = ("run", "split", "sentences", "of these with tags that are not allowed", "F1 argmax", "F1 viterbi")


def scores(workdir: pathlib.Path, split: str) -> dict[str, Any]:
    """Returns a row of the table; UserError for a run of another task."""
    run = open_run(workdir)
    task = run.task(run.config.data.source, split)
    if not isinstance(task, NerTask):
        raise UserError(f"--runs: {workdir} is a run of the task {run.definition.name}, not of ner.")
    mesh = make_mesh(MeshConfig())
    restored = run.restore(mesh, DEFAULT_BUILD)
    evaluator = Evaluator(task.objective.outputs, restored.graphdef, mesh, 8 * mesh.size)
    outputs, scorer, f1, broken = evaluator(restored.params, task.datasets[split]), task.scorer(split), {}, 0
    for decoding in (ARGMAX, VITERBI):
        decoded = dataclasses.replace(scorer, spec=dataclasses.replace(scorer.spec, decoding=decoding))
        found = decoded.report(outputs)
        f1[decoding] = round(100 * found.metrics["f1"], 2)
        if decoding == ARGMAX:
            tags = [record["predicted"] for record in found.predictions]
            broken = sum(write_tags(entity_spans(each), len(each)) != each for each in tags)
    counts = (len(task.sentences[split]), broken)
    return dict(zip(COLUMNS, (workdir.name, split, *counts, f1[ARGMAX], f1[VITERBI]), strict=True))


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--runs", required=True, help="run directories, comma-separated")
    parser.add_argument("--splits", default="valid,test")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    arguments = parser.parse_args()
    rows = [
        scores(pathlib.Path(run), split) for run in arguments.runs.split(",") for split in arguments.splits.split(",")
    ]
    formats: dict[str, str] = dict.fromkeys(COLUMNS[4:], ".2f")
    print(to_markdown(Table("Decoding", COLUMNS, [tuple(row.values()) for row in rows], formats=formats)))
    if arguments.output is not None:
        files.write_json(arguments.output, {"unit": "F1 in percent", "rows": rows})


if __name__ == "__main__":
    command_line.run(main)
