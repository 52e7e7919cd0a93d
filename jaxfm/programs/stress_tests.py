"""Tests of behaviour asked of a trained run."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.records import IMAGE, Record, TextsRecord, WordsRecord
from jaxfm.data.perturbations.behaviour_tests import (
    DIRECTION,
    MINIMUM,
    NEGATION,
    BehaviourTest,
    Case,
    read_behaviour_tests,
)
from jaxfm.data.perturbations.kinds import GROUPS, Resources, kinds_for, perturb_all, perturbed
from jaxfm.data.perturbations.negation import negated
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.behaviour import TestResult, judge_test
from jaxfm.programs.model import Model
from jaxfm.programs.stress_run import Opened


def checked_tests(path: pathlib.Path, opened: Opened, resources: Resources | None) -> list[BehaviourTest]:
    """Reads a file of tests that a run can be asked.

    Raises:
      UserError: as the reader; a model of images; a label, or a kind of test, that the model does not have.
    """
    tests, reads = read_behaviour_tests(path, "--tests"), opened.changes.reads
    if reads == IMAGE:
        raise UserError(f"--tests={path}: tests are of texts, and the run reads images.")
    predictor = opened.runs[0].predictor()
    labels: tuple[str, ...] = getattr(predictor, "entity_types", predictor.labels)
    finds_entities = hasattr(predictor, "entity_types")
    for test in tests:
        if test.type == DIRECTION and finds_entities:
            raise UserError(f"{test.origin}: direction needs the probability of a label, and the run finds entities.")
        if not opened.changes.probability:
            raise UserError(f"{test.origin}: the run gives numbers, not labels.")
        wanted = [test.label] if test.label else []
        for case in test.cases:
            if test.type == MINIMUM and isinstance(case.expect, str) == finds_entities:
                form = "[[text, type], ...]" if finds_entities else "a label"
                raise UserError(f"{test.origin}: expect is {form} for this run.")
            wanted += [case.expect] if isinstance(case.expect, str) else [kind for _, kind in case.expect or ()]
            if any(("\t" in text) != predictor.pairs for text in case.texts):
                rule = "a tab between the two texts of a pair" if predictor.pairs else "single texts, without a tab"
                raise UserError(f"{test.origin}: the run reads {rule}.")
        for label in wanted:
            if label not in labels:
                raise UserError(f"{test.origin}: the run has no label {label!r}. {did_you_mean(label, labels)}")
        if test.change and test.change != NEGATION:
            kinds_for(reads, [test.change], f"{test.origin}: change", resources)
    return tests


def run_tests(opened: Opened, tests: Sequence[BehaviourTest], resources: Resources, seed: int) -> list[TestResult]:
    """Asks the run and judges what it says."""
    model = Model(opened.runs[0].workdir if opened.ensemble is None else opened.runs[0].workdir.parent)
    found = []
    for test in tests:
        pairs = _changed(opened, test, resources, seed) if test.change else None
        if pairs is None:
            asked = [[_record_of(text) for text in case.texts] for case in test.cases]
            cases: Sequence[Case] = test.cases
        else:
            asked, cases = pairs
        requests = [[each] for case in asked for each in case]
        answers = [one for (one,) in model.answer_all(requests)]
        results, first = [], 0
        for case in asked:
            results.append(answers[first : first + len(case)])
            first += len(case)
        if test.change and test.type == DIRECTION:
            kept = [number for number, each in enumerate(results) if _says(each[0], test.label)][: test.most]
            if not kept:
                raise UserError(f"{test.origin}: the run says {test.label!r} of no record of {opened.split}.")
            cases, results = [cases[number] for number in kept], [results[number] for number in kept]
        found.append(judge_test(test, cases, results))
    return found


def _says(result: Mapping[str, Any], label: str) -> bool:
    return label in result.get("labels", [result.get("label")])


def _changed(
    opened: Opened, test: BehaviourTest, resources: Resources, seed: int
) -> tuple[list[list[dict[str, Any]]], list[Case]]:
    """Returns records of the split, each as it is and as it was changed, where the two differ."""
    records = opened.records
    for kind in GROUPS.get(test.change, (test.change,)):
        if kind != NEGATION:
            perturb_all(records, kind, test.severity, seed, resources)
    # The records of a direction are those with its label, which is known later: more are asked than are kept.
    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    asked, cases = list[list[dict[str, Any]]](), list[Case]()
    most = test.most if test.type != DIRECTION else 4 * test.most
    for number in order:
        if len(cases) >= most:
            break
        before = records[number]
        after = _change(before, test, resources, seed)
        if before == after:
            continue
        asked.append([_as_asked(before), _as_asked(after)])
        cases.append(Case((_shown(before), _shown(after))))
    if not cases:
        raise UserError(f"{test.origin}: {test.change} changes no record of {opened.split}.")
    return asked, cases


def _change(record: Record, test: BehaviourTest, resources: Resources, seed: int) -> Record:
    if test.change == NEGATION:
        assert isinstance(record, TextsRecord)
        return TextsRecord((*record.texts[:-1], negated(record.texts[-1])))
    for kind in GROUPS.get(test.change, (test.change,)):
        record = perturbed(record, kind, test.severity, seed, resources)
    return record


def _as_asked(record: Record) -> dict[str, Any]:
    if isinstance(record, WordsRecord):
        return {"tokens": list(record.words)}
    assert isinstance(record, TextsRecord)
    return dict(zip(("text", "pair"), record.texts, strict=False))


def _record_of(text: str) -> dict[str, Any]:
    return dict(zip(("text", "pair"), text.split("\t", 1), strict=False))


def _shown(record: Record) -> str:
    return " ".join(record.words) if isinstance(record, WordsRecord) else "\t".join(getattr(record, "texts", ()))
