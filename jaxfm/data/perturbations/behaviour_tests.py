"""Tests of behaviour that a person writes down, after CheckList (Ribeiro et al. 2020), in JSON lines or TOML.

A test is of one type: "minimum" (a label or entities are expected), "invariance" (the answer stays what it is) or
"direction" (the probability of a label must "not fall" or "not rise", by more than a tolerance). Its cases are written
out (`texts`, `pairs`), made of a `template` whose {slots} have lists of words, or the records of the split by a
`change`.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.perturbations.kinds import GROUPS, KINDS, SEVERITIES
from jaxfm.data.perturbations.names import ORIGINS, Names
from jaxfm.errors import UserError, did_you_mean

MINIMUM, INVARIANCE, DIRECTION = TYPES = ("minimum", "invariance", "direction")
NOT_FALL, NOT_RISE = MUST = ("not fall", "not rise")
NEGATION = "negation"
MOST = 200
_FIELDS = "name type template texts pairs slots vary change severity expect label must tolerance most".split()
_SLOT = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a test.

    Attributes:
      texts: one text, or of invariance and direction the text before and after.
      expect: of "minimum" the label, or the entities as (text, type); else None.
    """

    texts: tuple[str, ...]
    expect: Any = None


@dataclasses.dataclass(frozen=True)
class BehaviourTest:
    """A test of behaviour.

    Attributes:
      name: of the test.
      type: of TYPES.
      origin: where it was read: "tests.jsonl:3".
      cases: those written out or made of templates.
      change: of the split's records instead: a kind of `KINDS`, a group of `GROUPS` or "negation"; "" for none.
      severity: of the change.
      label: of "direction": whose probability is looked at.
      must: of "direction", one of MUST.
      tolerance: of "direction": by how much it may move the wrong way.
      most: cases at most.
    """

    name: str
    type: str
    origin: str
    cases: tuple[Case, ...] = ()
    change: str = ""
    severity: int = 2
    label: str = ""
    must: str = NOT_FALL
    tolerance: float = 0.05
    most: int = MOST


def read_behaviour_tests(path: pathlib.Path, option: str) -> list[BehaviourTest]:
    """Reads a file of tests: *.jsonl, a test a line, or *.toml, a [[test]] each.

    Raises:
      UserError: a file that cannot be read, an unknown field, a test without a case, naming file and line.
    """
    if not path.is_file():
        raise UserError(f"{option}={path}: no such file.")
    tests = [_test(values, origin) for origin, values in _entries(path, option)]
    if not tests:
        raise UserError(f"{option}={path}: has no test.")
    names = [each.name for each in tests]
    for each in tests:
        if names.count(each.name) > 1:
            raise UserError(f"{each.origin}: another test has the name {each.name!r} too.")
    return tests


def _entries(path: pathlib.Path, option: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}={path}: cannot be read: {error}.") from None
    if path.suffix == ".toml":
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{option}={path}: is not TOML: {error}.") from None
        tests = found.get("test")
        if not isinstance(tests, list) or set(found) != {"test"}:
            raise UserError(f"{option}={path}: holds tests as tables [[test]] and nothing else.")
        yield from ((f"{path}: test {number}", each) for number, each in enumerate(tests, start=1))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: is not JSON: {error}.") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}:{number}: a test is an object, {{...}}.")
        yield f"{path}:{number}", values


def _test(values: Mapping[str, Any], origin: str) -> BehaviourTest:
    for name in values:
        if name not in _FIELDS:
            raise UserError(f"{origin}: unknown field {name!r}. {did_you_mean(name, _FIELDS)}")
    kind, name = values.get("type"), values.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f'{origin}: a test has a name: "name": "what it is about".')
    if kind not in TYPES:
        raise UserError(f"{origin}: type={kind!r}: {did_you_mean(str(kind), TYPES)}")
    found = {
        each: values[each] for each in ("label", "must", "tolerance", "most", "severity", "change") if each in values
    }
    for each, right in (("label", str), ("must", str), ("tolerance", (int, float)), ("most", int), ("severity", int)):
        if each in found and (not isinstance(found[each], right) or isinstance(found[each], bool)):
            raise UserError(f"{origin}: {each}={found[each]!r} has the wrong type.")
    _check_direction(kind, found, origin)
    if found.get("most", 1) < 1:
        raise UserError(f"{origin}: most={found['most']}: a test has 1 case or more.")
    if "change" in found:
        _check_change(kind, found, values, origin)
        return BehaviourTest(name, kind, origin, **found)
    if "severity" in found:
        raise UserError(f"{origin}: severity goes with change.")
    cases = _cases(kind, values, origin)
    most = found.get("most", MOST)
    if len(cases) > most:  # spread over all of them, the same ones each time
        cases = [cases[at] for at in np.linspace(0, len(cases) - 1, most).astype(int).tolist()]
    return BehaviourTest(name, kind, origin, tuple(cases), **found)


def _check_direction(kind: str, found: Mapping[str, Any], origin: str) -> None:
    if kind == DIRECTION:
        if not found.get("label"):
            raise UserError(f'{origin}: direction is of the probability of a label: "label": "positive".')
        if found.get("must", NOT_FALL) not in MUST:
            raise UserError(f"{origin}: must={found['must']!r}: {did_you_mean(found['must'], MUST)}")
        if not 0 <= found.get("tolerance", 0) <= 1:
            raise UserError(f"{origin}: tolerance={found['tolerance']}: is a difference of probabilities, 0 to 1.")
        return
    for name in ("label", "must", "tolerance"):
        if name in found:
            raise UserError(f"{origin}: {name} goes with type={DIRECTION!r}.")


def _check_change(kind: str, found: Mapping[str, Any], values: Mapping[str, Any], origin: str) -> None:
    for name in ("template", "texts", "pairs", "slots", "vary", "expect"):
        if name in values:
            raise UserError(f"{origin}: {name} and change: the cases are either written down or the split's.")
    if kind == MINIMUM:
        raise UserError(f"{origin}: change goes with invariance or direction; scores are what is minimal of a split.")
    names = (*KINDS, *GROUPS, *((NEGATION,) if kind == DIRECTION else ()))
    if found["change"] not in names:
        raise UserError(f"{origin}: change={found['change']!r}: {did_you_mean(str(found['change']), names)}")
    if found.get("severity", 1) not in SEVERITIES:
        raise UserError(f"{origin}: severity={found['severity']}: is 1 to {SEVERITIES[-1]}.")


def _cases(kind: str, values: Mapping[str, Any], origin: str) -> list[Case]:
    given = [name for name in ("template", "texts", "pairs") if name in values]
    if len(given) != 1:
        raise UserError(f"{origin}: give one of template, texts, pairs and change.")
    if given[0] != "template" and ("slots" in values or "vary" in values):
        raise UserError(f"{origin}: slots and vary go with template.")
    if kind == MINIMUM and "expect" not in values:
        raise UserError(f'{origin}: minimum expects something: "expect": a label, or [[text, type], ...] of entities.')
    if kind != MINIMUM and "expect" in values:
        raise UserError(f"{origin}: expect goes with type={MINIMUM!r}.")
    cases = list({"template": _of_template, "texts": _of_texts, "pairs": _of_pairs}[given[0]](kind, values, origin))
    if not cases:
        raise UserError(f"{origin}: has no case.")
    return cases


def _of_texts(kind: str, values: Mapping[str, Any], origin: str) -> Iterator[Case]:
    if kind != MINIMUM:
        raise UserError(f"{origin}: texts go with type={MINIMUM!r}; {kind} compares pairs.")
    for text in _strings(values["texts"], "texts", origin):
        yield Case((text,), _expected(values["expect"], {}, origin))


def _of_pairs(kind: str, values: Mapping[str, Any], origin: str) -> Iterator[Case]:
    if kind == MINIMUM:
        raise UserError(f"{origin}: pairs go with invariance and direction; minimum has texts.")
    pairs = values["pairs"]
    if not isinstance(pairs, list) or not all(isinstance(each, list) and len(each) == 2 for each in pairs):
        raise UserError(f"{origin}: pairs is a list of [before, after].")
    for each in pairs:
        yield Case(tuple(_strings(each, "pairs", origin)))


def _of_template(kind: str, values: Mapping[str, Any], origin: str) -> Iterator[Case]:
    template = values["template"]
    parts = [template] if isinstance(template, str) else _strings(template, "template", origin)
    if len(parts) > 2 or (kind == MINIMUM and len(parts) > 1):
        raise UserError(f"{origin}: template is a text, or of invariance and direction [before, after].")
    slots = _slots(values.get("slots", {}), origin)
    named = dict.fromkeys(name for part in parts for name in _SLOT.findall(part))
    for name in named:
        if name not in slots:
            raise UserError(f"{origin}: the slot {{{name}}} has no words in slots. {did_you_mean(name, slots)}")
    for name in slots:
        if name not in named:
            raise UserError(f"{origin}: the template has no {{{name}}}. {did_you_mean(name, named)}")
    vary = _strings(values.get("vary", []), "vary", origin)
    for name in vary:
        if name not in named:
            raise UserError(f"{origin}: vary: the template has no {{{name}}}. {did_you_mean(name, named)}")
    fixed = [name for name in named if name not in vary]
    if kind == INVARIANCE and len(parts) == 1 and not vary:
        raise UserError(f'{origin}: say which slots must not change the answer: "vary": ["name"].')
    if vary and (kind != INVARIANCE or len(parts) == 2):
        raise UserError(f"{origin}: vary goes with invariance and one template.")
    for words in itertools.product(*(slots[name] for name in fixed)):
        filled = dict(zip(fixed, words, strict=True))
        if not vary:
            expect = _expected(values["expect"], filled, origin) if kind == MINIMUM else None
            yield Case(tuple(_filled(part, filled) for part in parts), expect)
            continue
        variants = [
            _filled(parts[0], filled | dict(zip(vary, each, strict=True)))
            for each in itertools.product(*(slots[name] for name in vary))
        ]
        yield from (Case((variants[0], each)) for each in variants[1:])


def _slots(values: Any, origin: str) -> dict[str, list[str]]:
    if not isinstance(values, dict):
        raise UserError(f'{origin}: slots is an object: {{"name": ["Ada", "Emma"]}}.')
    found = {}
    for name, words in values.items():
        found[name] = _named(words, origin) if isinstance(words, str) else _strings(words, f"slots.{name}", origin)
        if not found[name]:
            raise UserError(f"{origin}: slots.{name} has no word.")
    return found


def _named(words: str, origin: str) -> list[str]:
    """Returns a list that ships: "@given", "@family" or "@places", with ":ORIGIN" those of one origin."""
    which, _, of = words.removeprefix("@").partition(":")
    if not words.startswith("@") or which not in Names._fields:
        lists = [f"@{each}" for each in Names._fields]
        raise UserError(
            f"{origin}: slots: {words!r} is neither a list of words nor one that ships. {did_you_mean(words, lists)}"
        )
    if of and of not in ORIGINS:
        raise UserError(f"{origin}: slots: {words!r}: unknown origin. {did_you_mean(of, ORIGINS)}")
    return [name for each in ([of] if of else ORIGINS) for name in getattr(ORIGINS[each], which)]


def _strings(values: Any, name: str, origin: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(each, str) and each.strip() for each in values):
        raise UserError(f"{origin}: {name} is a list of texts.")
    return list(values)


def _expected(expect: Any, filled: Mapping[str, str], origin: str) -> Any:
    if isinstance(expect, str):
        return _filled(expect, filled)
    if isinstance(expect, list) and all(isinstance(each, list) and len(each) == 2 for each in expect):
        return tuple(tuple(_filled(str(part), filled) for part in each) for each in expect)
    raise UserError(f"{origin}: expect is a label, or [[text, type], ...] of all entities.")


def _filled(template: str, filled: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda found: filled[found[1]], template)


def slots_of(tests: Sequence[BehaviourTest]) -> list[str]:
    """Returns the kinds of changes that tests ask for."""
    return list(dict.fromkeys(each.change for each in tests if each.change and each.change != NEGATION))
