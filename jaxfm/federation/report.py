"""What came of a simulation, as tables: the model beside others, its clients one by one, and what went wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.observe.tables import Cell, Table

JSON_FILE, MARKDOWN_FILE, PICTURE = "federated.json", "federated.md", "federated.png"
FEDERATED = "federated"
TITLES = {FEDERATED: "federated", "central": "central", "local": "each by itself"}
_HELD = "held_out"


def models(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns what is compared: name -> scores, the federated model first."""
    return {FEDERATED: found["result"], **found["beside"]}


def model_table(found: Mapping[str, Any]) -> Table:
    """Returns a row a model: on the server's splits, and over the clients' held-out examples."""
    metric, compared = found["metric"], models(found)
    splits = [name for name in found["result"] if name != _HELD]
    rows: list[tuple[Cell, ...]] = []
    for name, scores in compared.items():
        held = scores[_HELD]
        worst = None if held["worst"] is None else held["worst_client"]
        own = (held["mean"], held["worst"], worst, held["gap"], held["deviation"])
        rows.append((TITLES[name], *(scores[split].get(metric) for split in splits), *own))
    return Table(
        f"{metric} of the model of all clients, and of others with as many updates",
        ("model", *splits, "mean of clients", "worst client", "which", "gap", "deviation"),
        rows,
    )


def client_table(found: Mapping[str, Any]) -> Table:
    """Returns a row a client: its data, and each model on what it holds out."""
    compared = models(found)
    rows: list[tuple[Cell, ...]] = []
    for client in found["clients"]:
        scores = tuple(scores[_HELD]["clients"].get(str(client["client"])) for scores in compared.values())
        largest = ", ".join(
            f"{name or 'none'} {count:,}"
            for name, count in sorted(client["classes"].items(), key=lambda of: -of[1])[:3]
        )
        rows.append((client["client"], client["name"], client["examples"], largest, client["rounds"], *scores))
    return Table(
        f"Clients: {found['metric']} on what each holds out",
        ("client", "name", "examples", "largest classes", "rounds", *(TITLES[name] for name in compared)),
        rows,
    )


def round_table(found: Mapping[str, Any]) -> Table:
    """Returns a row a round."""
    metric = found["metric"]
    has_valid = any("valid" in each for each in found["rounds"])
    rows: list[tuple[Cell, ...]] = []
    for each in found["rounds"]:
        held = each.get(_HELD, {})
        valid = (each["valid"].get(metric) if "valid" in each else None,) if has_valid else ()
        scores = (*valid, held.get("mean"), held.get("worst"))
        sent = (each["bytes_down"] / 1e6, each["bytes_up"] / 1e6)
        mark = "refused" if not each["accepted"] else "kept" if each["round"] == found["kept"] else ""
        rows.append((each["round"], len(each["answered"]), each["loss"], *scores, *sent, mark))
    return Table(
        "Rounds",
        (
            *("round", "clients", "loss"),
            *((f"{metric} on valid",) if has_valid else ()),
            *("mean of clients", "worst", "MB down", "MB up", ""),
        ),
        rows,
        formats={"MB down": ",.2f", "MB up": ",.2f"},
    )


def events(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each client that something went wrong with, and for each round that was refused."""
    by_what: dict[tuple[str, str], list[int]] = {}
    for each in rounds:
        for kind in ("dropped", "slow"):
            for client, why in each[kind].items():
                by_what.setdefault((client, why), []).append(each["round"])
        for client in each["poisoned"]:
            by_what.setdefault((str(client), "sent poison"), []).append(each["round"])
    lines = [
        f"client {client}: {why} (round{'s' * (len(of) > 1)} {_ranges(of)})"
        for (client, why), of in sorted(by_what.items(), key=lambda item: (int(item[0][0]), item[1]))
    ]
    if not any(each["accepted"] for each in rounds):
        lines.append("WARNING: no round was taken, so the model is that of the beginning")
    if refused := [each["round"] for each in rounds if not each["accepted"]]:
        lines.append(f"refused and rolled back: round{'s' * (len(refused) > 1)} {_ranges(refused)}")
    return lines


def traffic(found: Mapping[str, Any]) -> str:
    """Returns a sentence about what was sent."""
    sent = found["traffic"]
    share = sent["values"] / max(sent["parameters"], 1)
    only = (
        "all" if sent["values"] == sent["parameters"] else f"{sent['values']:,} of {sent['parameters']:,} ({share:.2%})"
    )
    return (
        f"sent: {sent['bytes_down'] / 1e6:,.2f} MB to clients and {sent['bytes_up'] / 1e6:,.2f} MB from them; {only} "
        "parameters travel"
    )


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)
