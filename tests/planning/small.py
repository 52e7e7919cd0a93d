"""A run small enough to compile in a test, and CPU devices that stand for a v5e of four chips."""

from collections.abc import Sequence
from typing import Any

import jax
import pytest

from jaxfm.config import Config
from jaxfm.planning import estimate
from jaxfm.planning.hardware import DeviceLocation, Topology
from jaxfm.tasks.registry import default_config, from_config_dict


def config(task: str = "masked_lm", **overrides: Any) -> Config:
    """bert_tiny over short rows; keys as `train__batch_size=4`."""
    values = default_config(task)
    values.model.preset = "bert_tiny"
    values.model.tokenizer = "train:wordpiece/500"
    values.model.scan_layers = True
    values.data.row_length = 16
    values.train.batch_size = 8
    values.eval.metric = "loss" if task == "masked_lm" else values.eval.metric
    for key, value in overrides.items():
        *groups, name = key.split("__")
        node = values
        for group in groups:
            node = node[group]
        node[name] = value
    return from_config_dict(values)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU's first four devices pass for the chips of v5e:2x2."""

    def device_locations(devices: Sequence[Any], topology: Topology) -> list[DeviceLocation]:
        return [DeviceLocation(0, (device.id // 2, device.id % 2)) for device in devices]

    monkeypatch.setattr(estimate, "describe_devices", lambda topology: jax.devices()[: topology.size])
    monkeypatch.setattr(estimate, "device_locations", device_locations)
