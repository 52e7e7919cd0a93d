"""Tables of a simulation, from what its JSON holds."""

from typing import Any

from jaxfm.federation.report import client_table, events, model_table, round_table, traffic
from jaxfm.observe.tables import to_plain


def held(one: float | None, other: float) -> dict[str, Any]:
    return {
        **{"clients": {"0": one, "1": other}, "mean": 0.6, "weighted_mean": 0.5, "worst": other, "worst_client": 1},
        **{"gap": 0.1, "deviation": 0.05, "undefined": 0},
    }


def record(number: int, **more: Any) -> dict[str, Any]:
    start = {"clients": [0, 1], "answered": [0, 1], "dropped": {}, "slow": {}, "poisoned": [], "loss": 0.5}
    return {"round": number, **start, "bytes_down": 2_000_000, "bytes_up": 1_000_000, "accepted": True, **more}


ROUNDS = [
    record(1, valid={"f1": 0.25}, held_out=held(0.7, 0.5)),
    record(2, answered=[0], dropped={"1": "dropped out"}, poisoned=[0]),
    record(3, slow={"1": "slow: 1 of 2 updates"}, poisoned=[0], accepted=False),
    record(5, slow={"1": "slow: 1 of 2 updates"}),
]
FOUND = {
    **{"metric": "f1", "kept": 1, "rounds": ROUNDS, "result": {"valid": {"f1": 0.25}, "held_out": held(0.7, 0.5)}},
    "beside": {"local": {"valid": {"f1": 0.125}, "held_out": held(None, 0.25)}},
    "clients": [
        {"client": 0, "name": "a", "examples": 1000, "classes": {"PER": 3, "": 40}, "rounds": 4},
        {"client": 1, "name": "b", "examples": 5, "classes": {"LOC": 5}, "rounds": 3},
    ],
    "traffic": {"bytes_down": 8e6, "bytes_up": 4e6, "values": 5, "parameters": 50},
}


def test_models_stand_beside_each_other() -> None:
    table = model_table(FOUND)
    assert [row[0] for row in table.rows] == ["federated", "each by itself"]
    assert table.rows[0][1:5] == (0.25, 0.6, 0.5, 1) and table.rows[1][1] == 0.125


def test_clients_have_a_score_by_each_model() -> None:
    table = client_table(FOUND)
    assert table.rows[0] == (0, "a", 1000, "none 40, PER 3", 4, 0.7, None)
    assert table.rows[1][-2:] == (0.5, 0.25)


def test_rounds_say_what_was_kept_and_refused() -> None:
    table = round_table(FOUND)
    assert [row[-1] for row in table.rows] == ["kept", "", "refused", ""]
    assert table.rows[0][:6] == (1, 2, 0.5, 0.25, 0.6, 0.5) and table.rows[1][3] is None
    assert "2.00" in to_plain(table)


def test_events_name_clients_and_rounds() -> None:
    assert events(ROUNDS) == [
        "client 0: sent poison (rounds 2 to 3)",
        "client 1: dropped out (round 2)",
        "client 1: slow: 1 of 2 updates (rounds 3, 5)",
        "refused and rolled back: round 3",
    ]


def test_it_is_said_where_no_round_was_taken() -> None:
    first, *_ = events([record(1, accepted=False)])
    assert first == "WARNING: no round was taken, so the model is that of the beginning"


def test_traffic_in_words() -> None:
    assert traffic(FOUND) == ("sent: 8.00 MB to clients and 4.00 MB from them; 5 of 50 (10.00%) parameters travel")
    assert "all parameters travel" in traffic({"traffic": {**FOUND["traffic"], "values": 50}})
