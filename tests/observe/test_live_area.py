"""What is drawn anew: by rich on a terminal, as one output that is replaced in a notebook."""

import io
import sys
import types
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from jaxfm.observe.live_area import NotebookArea, is_live, live_area
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table


class Handle:
    """An output of a cell: all it has ever shown."""

    def __init__(self, first: Any):
        self.shown = [first.data]

    def update(self, thing: Any) -> None:
        self.shown.append(thing.data)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    """The outputs of a notebook's cell, from a stand-in for IPython."""
    found: list[Handle] = []

    def display(thing: Any, *more: Any, display_id: bool = False, **named: Any) -> Handle:
        # Without an identifier it is rich that displays: what it prints.
        shown = thing if display_id else types.SimpleNamespace(data=thing._repr_mimebundle_((), ())["text/html"])
        handle = Handle(shown)
        found.append(handle)
        return handle

    class HTML:
        def __init__(self, data: str):
            self.data = data

        def _repr_html_(self) -> str:
            return self.data

    module = types.ModuleType("IPython.display")
    module.display, module.HTML = display, HTML  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


def notebook() -> Console:
    return Console(force_jupyter=True, width=80, _environ={})


def test_a_notebook_has_one_output_that_is_replaced(outputs: list[Handle]) -> None:
    state = "one"
    area = live_area(notebook(), lambda: state)
    assert isinstance(area, NotebookArea)
    area.refresh()  # before it starts there is nothing to draw on
    assert outputs == []
    area.start()
    state = "two [b]"
    area.refresh()
    area.stop()
    area.refresh()
    (output,) = outputs
    assert ["one" in output.shown[0], *("two" in html for html in output.shown[1:])] == [True] * 3
    assert output.shown[0].startswith("<pre") and "<html" not in output.shown[0]


def test_a_run_in_a_notebook_is_one_bar(outputs: list[Handle]) -> None:
    with Progress(4, console=notebook()) as progress:
        for step in (2, 4):
            progress.update(step, epoch=step / 4, loss=0.5, learning_rate=1e-3, speed="9 tokens/s")
        with progress.task("scoring", 3) as advance:
            advance(3)
    bar = outputs[0]
    assert "4/4 (100 %)" in bar.shown[-1] and "loss 0.5000" in bar.shown[-1] and "scoring" not in bar.shown[-1]
    assert "0/4 (0 %)" in bar.shown[0] and any("scoring" in html for html in bar.shown)
    assert len(outputs) == 1


def test_a_table_in_a_notebook_is_an_output_beside_the_bar(outputs: list[Handle]) -> None:
    with Progress(4, console=notebook()) as progress:
        progress.table(Table("Scores", ("metric", "valid"), [("f1", 0.5)]))
    assert len(outputs) == 2 and "0.5000" in outputs[1].shown[0]


def test_lines_in_a_notebook_are_one_stream(outputs: list[Handle], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, console=notebook()) as progress:
        with progress.task("scoring", 3):
            progress.say("one [b]")
            progress.headline("two")
    assert capsys.readouterr().out == "one [b]\ntwo\n"
    (bar,) = outputs
    assert any("scoring" in html for html in bar.shown) and bar.shown[-1] == ""  # nothing is left of it
    Progress(None, console=Console(force_jupyter=True, quiet=True, _environ={})).say("never")
    assert capsys.readouterr().out == ""


def test_what_is_live() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, _environ={})
    assert is_live(terminal) and isinstance(live_area(terminal, lambda: "x"), Live)
    assert is_live(notebook())
    assert not is_live(Console(file=io.StringIO(), _environ={}))
    assert not is_live(Console(force_jupyter=True, quiet=True, _environ={}))
