"""Several classes an example in every form that files have them: read as what they are, or refused with the reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.label_forms import find_form
from jaxfm.data.records.printed_labels import printed_value
from jaxfm.errors import UserError

PLACES = ("label_0", "label_1", "label_2")


def read(*values, names=None):
    """The classes of each value of a field, and all of them where the field says so."""
    places = [(f"f:{line}", value) for line, value in enumerate(values, start=1)]
    form = find_form(places, "labels", names)
    return [form.classes_of(value, origin) for origin, value in places], form.classes


@pytest.mark.parametrize(
    "write",
    [
        lambda bits: bits,
        lambda bits: [float(bit) for bit in bits],
        lambda bits: [bool(bit) for bit in bits],
        lambda bits: [str(bit) for bit in bits],
        str,
        json.dumps,
        lambda bits: f"[{' '.join(map(str, bits))}]",
        lambda bits: f"[{' '.join(f'{bit}.' for bit in bits)}]",
        lambda bits: str([bool(bit) for bit in bits]),
        lambda bits: json.dumps([bool(bit) for bit in bits]),
        lambda bits: str(tuple(bits)),
        lambda bits: f"array({bits})",
        lambda bits: f"tensor({[float(bit) for bit in bits]}, dtype=torch.float64)",
        lambda bits: ",".join(map(str, bits)),
        lambda bits: " ; ".join(map(str, bits)),
        lambda bits: "|".join(map(str, bits)),
        lambda bits: " ".join(map(str, bits)),
        lambda bits: "".join(map(str, bits)),
        lambda bits: ",".join(str(bool(bit)) for bit in bits),
    ],
)
def test_vectors_are_vectors_however_they_are_written(write):
    rows = ([0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0])
    found, classes = read(*map(write, rows))
    assert found == [("label_1",), ("label_0",), (), ("label_0", "label_1")]
    assert classes == PLACES


@pytest.mark.parametrize(
    "write",
    [
        lambda marks: marks,
        lambda marks: {name: bool(bit) for name, bit in marks.items()},
        lambda marks: {name: bit for name, bit in marks.items() if bit},
        json.dumps,
        str,
        lambda marks: str({name: bool(bit) for name, bit in marks.items()}),
    ],
)
def test_marks_by_name(write):
    found, classes = read(*map(write, ({"x": 1, "y z": 0}, {"x": 1, "y z": 1}, {"x": 0, "y z": 0})))
    assert found == [("x",), ("x", "y z"), ()]
    assert classes == ("x", "y z")


@pytest.mark.parametrize(
    "write",
    [
        list,
        str,
        json.dumps,
        lambda names: json.dumps(names, ensure_ascii=False),
        "|".join,
        lambda names: str(tuple(names)) if names else "()",
        lambda names: "{" + str(names)[1:-1] + "}" if names else "[]",
        lambda names: "[" + " ".join(map(repr, names)) + "]",  # numpy
    ],
)
def test_names_of_classes(write):
    rows = (["x"], ["it's", "\u00e9 2"], [])
    assert read(*map(write, rows)) == ([tuple(row) for row in rows], ())


def test_class_numbers_of_several_lengths_are_no_vectors():
    assert read([0, 1], [1], []) == ([("0", "1"), ("1",), ()], ())
    assert read("0|1", "1", "") == ([("0", "1"), ("1",), ()], ())
    assert read([0, 1], [1, 2]) == ([("0", "1"), ("1", "2")], ())
    assert read("10", "11") == ([("10",), ("11",)], ())
    assert read([0], [1]) == ([("0",), ("1",)], ())


def test_names_of_class_numbers():
    names = ["joy", "fear"]
    assert read([1, 0], [], [0], names=names) == ([("fear", "joy"), (), ("joy",)], ())
    assert read([1, 0], [0, 1], names=names)[0] == [("fear", "joy"), ("joy", "fear")]
    # What cannot be class numbers are vectors, and their places have the names.
    assert read([1, 0], [0, 0], names=names) == ([("joy",), ()], ("joy", "fear"))
    assert read([True, False], [False, True], names=names)[0] == [("joy",), ("fear",)]
    with pytest.raises(UserError, match=r"f:1: the class 2 in 'labels' is outside 0\.\.1"):
        read([2], [1], names=names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([0, 1, 0], [1, 0]), r"f:2: a list of 2 in 'labels', but of 3 at f:1: .* one length"),
        (([0, 1, 0], []), r"f:2: a list of 0 in 'labels', but of 3 at f:1"),
        (("0,1,0", ""), r"f:2: a list of 0 in 'labels', but of 3 at f:1"),
        (("0|1|0", "1"), r"f:2: a list of 1 in 'labels', but of 3 at f:1"),
        (
            ([True], [False]),
            r"f:1: the labels in 'labels': true and false may be in lists only with one position for each",
        ),
        (([True, False], [True]), r"f:2: a list of 1 in 'labels', but of 2 at f:1"),
        (([0.3, 0.7], [1.0, 0.0]), r"f:1: .* neither 0 nor 1: labels that hold in part \(soft labels\).*kind=regres"),
        (("[0. 1.]", "[0.3 0.7]"), r"f:2: .*soft labels"),
        (("0,1", "0.25,1"), r"f:2: .*soft labels"),
        (({"x": 0.5}, {"x": 1}), r"f:1: \{'x': 0\.5\} in 'labels': 0\.5 is neither 0 nor 1: .*soft labels"),
        (({"x": 1}, {"x": "yes"}), r"f:2: \{'x': 'yes'\} in 'labels': 'yes' is neither 0 nor 1"),
        (({"x": 1}, {"x": None}), r"f:2: .*: None is neither 0 nor 1"),
        (([0, 1, 0], ["x"]), r"f:2: 'labels' holds lists of text here, but lists of numbers at f:1: .* one form"),
        ((["x"], "y"), r"f:2: 'labels' holds text here, but lists at f:1"),
        (("['x']", "y"), r"f:2: 'labels' holds text here, but lists printed as text at f:1"),
        (({"x": 1}, ["x"]), r"f:2: 'labels' holds lists here, but objects at f:1"),
        ((["x"], 1), r"f:2: 'labels' holds single values here, but lists at f:1"),
        (([0, 3, 0], [1, 0, 0]), r"f:1: one number twice in the list in 'labels': .* or 0 or 1 for every class"),
        (([0, 1, -1], [1, -1, -1]), r"f:2: one number twice"),
        (([0, 1, None], [1, 0, 0]), r"f:2: one number twice"),
        (([0, None], [1]), r"f:1: None in 'labels' is not a class"),
        (
            ([[0, 1]], [[1, 0]]),
            r"f:1: \[0, 1\] in the list in 'labels' is not a class: a class is text or a whole number",
        ),
        (([{"name": "x"}], [{"name": "y"}]), r"f:1: \{'name': 'x'\} in the list in 'labels' is not a class"),
    ],
)
def test_what_has_no_one_form_is_refused_with_its_place(values, message):
    with pytest.raises(UserError, match=message) as caught:
        read(*values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[PAD]", "(1)", "[x, y]", "{x}", "[", "]", "[1", "(x)", "{'a': 1, 'b'}", "['a': 1]", ""]
)
def test_other_texts_are_no_prints(text):
    assert printed_value(text) is None


VALUES = st.lists(st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5), max_size=4)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.dictionaries(st.text(max_size=4), st.booleans() | st.integers(0, 3), max_size=3))
def test_prints_of_json_and_of_python_are_read_as_what_they_are(values, marks):
    assert printed_value(json.dumps(values)) == values
    assert printed_value(json.dumps(marks)) == marks
    if all(not isinstance(value, str) or value.isprintable() or "\n" in value for value in values):
        assert printed_value(str(values)) == values


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text("01,|; []{}'\":xy.\\", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY, max_size=4))
def test_every_column_has_one_form_or_is_refused_with_a_place(values):
    try:
        found, classes = read(*values)
    except UserError as error:
        assert str(error).startswith("f:")
    else:
        assert all(isinstance(name, str) for row in found for name in row)
        assert not classes or {name for row in found for name in row} <= set(classes)
