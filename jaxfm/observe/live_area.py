"""The part of the screen that is drawn anew: on a terminal by rich, in a notebook as one output that is replaced.

rich draws nothing in a notebook without ipywidgets; an output with an identifier needs no more than IPython, and works
in Jupyter, Colab and VS Code.
"""

import io
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

_FORMAT = '<pre style="line-height: 1.2; white-space: pre">{code}</pre>'


class LiveArea(Protocol):
    """What is drawn anew at each `refresh`."""

    def start(self, refresh: bool = False) -> None:
        """Begins to draw."""
        ...

    def stop(self) -> None:
        """Leaves the last state on the screen."""
        ...

    def refresh(self) -> None:
        """Draws the present state."""
        ...


def is_live(console: Console) -> bool:
    """Whether something can be drawn anew on this console: it is a terminal or a notebook, and not quiet."""
    return (console.is_interactive or console.is_jupyter) and not console.quiet


def live_area(console: Console, render: Callable[[], RenderableType]) -> LiveArea:
    """Returns an area for a console that `is_live`: a thread draws a terminal once a second; a notebook, only calls."""
    if console.is_jupyter:
        return NotebookArea(console, render)
    return Live(console=console, refresh_per_second=1, get_renderable=render)


class NotebookArea:
    """An output of a notebook's cell that is replaced at each refresh."""

    def __init__(self, console: Console, render: Callable[[], RenderableType]) -> None:
        """`console` gives the width."""
        self._console, self._render = console, render
        self._handle = None

    def start(self, refresh: bool = False) -> None:
        """Shows the first state."""
        del refresh  # an output cannot be there and show nothing
        from IPython.display import display  # type: ignore[import-not-found]  # a notebook has it

        self._handle = display(self._html(), display_id=True)

    def refresh(self) -> None:
        """Replaces the output."""
        if self._handle is not None:
            self._handle.update(self._html())

    def stop(self) -> None:
        """Leaves the last state in the notebook."""
        self.refresh()
        self._handle = None

    def _html(self) -> object:
        from IPython.display import HTML  # type: ignore[import-not-found]

        page = Console(
            file=io.StringIO(), width=self._console.width, record=True, force_jupyter=False, color_system="truecolor"
        )
        page.print(self._render())
        if not page.export_text(clear=False).strip():  # after a temporary bar
            return HTML("")
        return HTML(page.export_html(inline_styles=True, code_format=_FORMAT))
