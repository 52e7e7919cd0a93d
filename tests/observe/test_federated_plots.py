"""The picture of a simulation is drawn whatever is missing."""

import pathlib

import pytest

from jaxfm.observe.federated_plots import MOST_CLIENTS, plot_rounds


@pytest.mark.parametrize("clients", [3, MOST_CLIENTS + 1])
def test_the_picture(tmp_path: pathlib.Path, clients: int) -> None:
    plot_rounds(
        {"valid": [(1, 0.5), (2, None), (3, float("nan"))], "worst client": [(1, None), (2, None)]},
        {"central": 0.7, "local": None},
        [2],
        {"federated": [0.5, None, *[0.1] * (clients - 2)], "central": [None] * clients},
        tmp_path / "a.png",
        metric="f1",
        kept=1,
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
