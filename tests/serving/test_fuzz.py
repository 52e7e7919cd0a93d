"""Requests of any shape that the OpenAPI document allows, and many that it does not: none is a fault of the server."""

import pathlib
import zlib
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

from jaxfm.programs.model import Model  # noqa: E402
from jaxfm.serving.app import Service, make_app  # noqa: E402
from jaxfm.serving.served import Limits  # noqa: E402
from tests import tiny  # noqa: E402

_NAMES = ("ner", "pairs", "embedding")
_ROOT = str(pathlib.Path(__file__).resolve().parents[2])


@schemathesis.serializer("application/x-ndjson")
def _as_lines(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def test_no_request_is_a_fault(tmp_path: pathlib.Path) -> None:
    runs = tiny.write_runs(tmp_path, _NAMES)
    service = Service({name: Model(run) for name, run in runs.items()}, Limits(inputs=8, body=20_000, batch=20_000))
    service.ready = True
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service))
    seen: dict[str, set[int]] = {}

    def ask(case: Any) -> None:
        if name := (case.path_parameters or {}).get("name"):
            # A path of a name that there is; every eighth keeps its own, which there is not.
            number = zlib.crc32(str(name).encode("utf-8", "replace"))
            if number % 8:
                case.path_parameters["name"] = _NAMES[number % len(_NAMES)]
        reply = case.call()
        assert reply.status_code < 500 or reply.status_code in (503, 504), reply.text
        assert "Traceback" not in reply.text and _ROOT not in reply.text
        seen.setdefault(case.operation.path, set()).add(reply.status_code)

    examples = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    for result in schema.get_all_operations():
        operation = result.ok()
        wrong = (GenerationMode.NEGATIVE,) if operation.body else ()  # what asks for nothing cannot be asked wrongly
        for mode in (GenerationMode.POSITIVE, *wrong):
            examples(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    service.close()
    assert {200, 422} <= seen["/v1/models/{name}/predict"] and 404 in seen["/v1/models/{name}/predict"]
    assert {200, 404, 422} <= seen["/v1/models/{name}/explain"] and {200, 404} <= seen["/v1/models/{name}/rank"]
