"""The HTTP interface in one process: paths, status codes, limits, and that the answers are those of jaxfm.predict."""

import base64
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from jaxfm.programs.model import Model
from jaxfm.serving.app import Service, make_app
from jaxfm.serving.served import Limits
from tests import tiny
from tests.serving.fakes import FakeModel

PREDICT = "/v1/models/m/predict"
TOKEN = "a-token-of-many-letters"


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def service(model: FakeModel) -> Iterator[Service]:
    service = Service({"m": model}, Limits(inputs=3, characters=40, body=400, batch=2000, batch_inputs=2, deadline=5.0))
    service.ready = True
    yield service
    model.held.set()
    service.close()


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(make_app(service), raise_server_exceptions=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ({"text": "a"}, ["a"]), (["a", {"text": "b"}], ["a", "b"])],
)
def test_one_input_or_several(client: TestClient, inputs: Any, texts: list[str]) -> None:
    reply = client.post(PREDICT, json={"inputs": inputs})
    assert reply.status_code == 200
    assert reply.json() == {
        "model": "m",
        "results": [{"text": text} for text in texts],
        "truncated": [False] * len(texts),
    }


def test_a_text_that_is_not_read_whole_says_so(client: TestClient) -> None:
    assert client.post(PREDICT, json={"inputs": ["short", "long"]}).json()["truncated"] == [False, True]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        (PREDICT, {"inputs": []}, 422, "inputs: is empty"),
        (PREDICT, {"inputs": ["a"] * 4}, 422, "4 are more than 3"),
        (PREDICT, {"inputs": ["a" * 41]}, 413, "41 characters"),
        (PREDICT, {"inputs": ["a", 7]}, 422, "inputs"),
        (PREDICT, {"inputs": ["a", {"txt": "b"}]}, 422, "input 2: must be text."),
        (PREDICT, {"inputs": [["a", "b", "c"]]}, 422, "input 1: a list is a pair of texts, but this one has 3."),
        (PREDICT, {"inputs": {"image": "no base64!"}}, 422, "the image must be the bytes of a file in base64"),
        (PREDICT, {"inputs": "a", "model": "b"}, 422, "model: Extra inputs are not permitted"),
        (PREDICT, {}, 422, "inputs: Field required"),
        (PREDICT, {"inputs": "wrong"}, 422, "this model cannot read it."),
        (PREDICT, {"inputs": "x" * 400}, 413, "the body has more than 400 bytes"),
        ("/v1/models/n/predict", {"inputs": "a"}, 404, "model 'n'"),
        ("/v1/models/m/predicts", {"inputs": "a"}, 404, "Not Found"),
        ("/v1/models/m/rank", {"query": "", "texts": ["a"]}, 422, "query"),
        ("/v1/models/m/rank", {"query": "a", "texts": []}, 422, "texts"),
    ],
)
def test_what_is_refused(client: TestClient, path: str, body: Any, status: int, detail: str) -> None:
    reply = client.post(path, json=body)
    assert reply.status_code == status and detail in reply.json()["detail"]


def test_what_is_no_json_is_refused(client: TestClient) -> None:
    reply = client.post(PREDICT, content=b'{"inputs": ', headers={"content-type": "application/json"})
    assert reply.status_code == 422 and "JSON" in reply.json()["detail"]


def test_a_body_without_a_length_is_counted(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(10):
            yield b"x" * 100
        yield b'"}'

    reply = client.post(PREDICT, content=pieces(), headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_a_fault_shows_nothing_of_the_inside(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    reply = client.post(PREDICT, json={"inputs": "fault"})
    assert reply.status_code == 500 and "secret" not in reply.text and "Traceback" not in reply.text
    assert client.post(PREDICT, json={"inputs": "a"}).status_code == 200


def test_a_full_queue_is_429_and_a_late_answer_504(model: FakeModel) -> None:
    service = Service({"m": model}, Limits(queue=1, deadline=0.2, batch_inputs=1))
    service.ready = True
    client = TestClient(make_app(service))
    model.held.clear()
    service.batchers["m"].submit([{"text": "first"}])
    assert model.begun.wait(20)
    service.batchers["m"].submit([{"text": "second"}])
    busy = client.post(PREDICT, json={"inputs": "a"})
    assert busy.status_code == 429 and int(busy.headers["retry-after"]) >= 1
    model.held.set()
    service.close()
    service = Service({"m": model}, Limits(deadline=0.2))
    service.ready = True
    model.held.clear()
    late = TestClient(make_app(service)).post(PREDICT, json={"inputs": "a"})
    assert late.status_code == 504 and "0.2 s" in late.json()["detail"]
    model.held.set()
    service.close()


def test_it_answers_when_it_is_ready_and_not_when_it_stops(client: TestClient, service: Service) -> None:
    service.ready = False
    assert client.get("/health").json() == {"status": "ok"}
    for reply in (client.get("/ready"), client.post(PREDICT, json={"inputs": "a"})):
        assert reply.status_code == 503 and reply.headers["retry-after"] == "5"
    service.ready = True
    assert client.get("/ready").json() == {"status": "ready"}
    service.stopping = True
    assert client.get("/ready").status_code == client.post(PREDICT, json={"inputs": "a"}).status_code == 503
    assert client.get("/health").status_code == 200


def test_a_document_is_answered_line_by_line(client: TestClient) -> None:
    text = "ab\n\ncdé\nlong"
    reply = client.post("/v1/models/m/stream", json={"text": text})
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    found = lines(reply.text)
    assert [each["line"] for each in found] == [1, 2, 3, 4] and [each["truncated"] for each in found][3]
    for each in found:  # each knows where in the document it is
        shown = each["result"]["text"]
        assert text[each["start"] : each["start"] + len(shown)] == shown


def test_a_batch_has_a_line_for_each_line(client: TestClient) -> None:
    body = '"a"\n{"text": "b"}\nnonsense\n\n["x"]\n7\n"wrong"'
    found = lines(client.post("/v1/models/m/batch", content=body.encode()).text)
    assert [(each["line"], "result" in each) for each in found[:2]] == [(1, True), (2, True)]
    assert [each["error"] for each in found[2:]] == [
        "line 3: is not JSON",
        "line 5: a list is a pair of texts, but this one has 1.",
        "line 6: must be a text, a pair of texts or an object",
        "this model cannot read it.",
    ]


def test_a_line_that_the_model_cannot_read_spoils_no_other(client: TestClient) -> None:
    found = lines(client.post("/v1/models/m/batch", content=b'"a"\n"wrong"\n"b"\n"c"').text)
    assert [(each["line"], "error" in each) for each in found] == [(1, False), (2, True), (3, False), (4, False)]


def test_explanations_have_a_limit_and_a_deadline(model: FakeModel) -> None:
    service = Service({"m": model}, Limits(deadline=0.1))
    service.ready = True
    client = TestClient(make_app(service))
    model.explain = lambda record: time.sleep(0.5) or {}  # type: ignore[method-assign, func-returns-value]
    late = client.post("/v1/models/m/explain", json={"input": "a"})
    assert late.status_code == 504
    service.beside = 8
    assert client.post("/v1/models/m/explain", json={"input": "a"}).status_code == 429
    service.close()


def test_a_batch_may_be_larger_than_other_bodies_but_has_limits(client: TestClient) -> None:
    path = "/v1/models/m/batch"
    assert len(lines(client.post(path, content=b'"a"\n' * 200).text)) == 200
    assert client.post(path, content=b'"a"\n' * 600).status_code == 413
    (only,) = lines(client.post(path, content=b'"' + b"a" * 500 + b'"\n"b"').text)
    assert "more than 400 bytes" in only["error"]


def test_the_token_is_needed_where_it_is_set(service: Service) -> None:
    client = TestClient(make_app(service, token=TOKEN))
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
    ):
        for reply in (
            client.post(PREDICT, json={"inputs": "a"}, headers=headers),
            client.get("/v1/models", headers=headers),
            client.get("/metrics", headers=headers),
        ):
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post(PREDICT, json={"inputs": "a"}, headers=right).status_code == 200
    # What says whether it lives, and the page, which has nothing of the models, are open.
    assert all(client.get(path).status_code == 200 for path in ("/", "/health", "/ready", "/static/page.js"))


def test_it_is_called_by_its_own_name_alone(service: Service) -> None:
    client = TestClient(make_app(service, hosts=("localhost",)), base_url="http://localhost:80")
    assert client.get("/v1/models").status_code == 200
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400


def test_models_and_measures(client: TestClient) -> None:
    (shown,) = client.get("/v1/models").json()["models"]
    assert shown["name"] == "m" and shown["task"] == "fake" and shown["reads"] == ["text"] and shown["explains"]
    client.post(PREDICT, json={"inputs": "a"})
    client.post("/v1/models/unheard-of/predict", json={"inputs": "a"})
    text = client.get("/metrics").text
    assert 'jaxfm_requests_total{endpoint="predict",model="m",status="200"} 1.0' in text
    assert 'model="unknown",status="404"' in text and "unheard-of" not in text


def test_explanations_and_rankings(client: TestClient) -> None:
    assert client.post("/v1/models/m/explain", json={"input": "a"}).json()["targets"] == [{"label": "A"}]
    ranking = client.post("/v1/models/m/rank", json={"query": "a", "texts": ["b", "c"]}).json()["ranking"]
    assert [each["text"] for each in ranking] == ["b", "c"]


def test_the_page_asks_nothing_of_others(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css"):
        reply = client.get(path)
        assert "http://" not in reply.text and "https://" not in reply.text and "innerHTML" not in reply.text
        assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert client.get("/static/app.py").status_code == 404


# --- a trained run ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("served"), ("ner", "classification", "pairs", "qa", "embedding"))


@pytest.fixture(scope="module")
def trained(runs: dict[str, pathlib.Path]) -> Iterator[TestClient]:
    service = Service({name: Model(run) for name, run in runs.items()}, Limits())
    for model in service.models.values():
        assert list(model.warm(2))
    service.ready = True
    yield TestClient(make_app(service))
    service.close()


TEXTS = ["ada met boole in hull", "boole", "", "hull and ada " * 40]


@pytest.mark.parametrize("name", ["ner", "classification"])
def test_answers_are_those_of_predict(trained: TestClient, runs: dict[str, pathlib.Path], name: str) -> None:
    found = trained.post(f"/v1/models/{name}/predict", json={"inputs": TEXTS}).json()
    assert found["results"] == Model(runs[name])(TEXTS)
    assert found["truncated"] == [False] * 3 + [name == "classification"]  # every word of a tagger has its tag
    streamed = lines(trained.post(f"/v1/models/{name}/stream", json={"text": "\n".join(TEXTS)}).text)
    assert [each["result"] for each in streamed] == found["results"]


@pytest.mark.parametrize("name", ["pairs", "qa"])
def test_pairs_come_in_either_form(trained: TestClient, runs: dict[str, pathlib.Path], name: str) -> None:
    inputs = [["who met boole?", TEXTS[0]], {"text": "ada", "pair": "hull", "id": 3}]
    found = trained.post(f"/v1/models/{name}/predict", json={"inputs": inputs}).json()["results"]
    assert found == Model(runs[name])([tuple(inputs[0]), inputs[1]]) and found[1]["id"] == 3
    refused = trained.post(f"/v1/models/{name}/predict", json={"inputs": "one text"})
    assert refused.status_code == 422 and "judges pairs" in refused.json()["detail"]


def test_texts_are_ranked_by_their_vectors(trained: TestClient) -> None:
    texts = ["hull", "ada met boole", "boole"]
    ranking = trained.post("/v1/models/embedding/rank", json={"query": texts[1], "texts": texts}).json()["ranking"]
    assert ranking[0]["text"] == texts[1] and ranking[0]["score"] == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_explained_or_ranked_says_so(trained: TestClient) -> None:
    reply = trained.post("/v1/models/embedding/explain", json={"input": "a"})
    assert reply.status_code == 404 and "are not explained" in reply.json()["detail"]
    reply = trained.post("/v1/models/ner/rank", json={"query": "a", "texts": ["b"]})
    assert reply.status_code == 404 and "makes no vectors" in reply.json()["detail"]


def test_a_path_is_never_opened_as_an_image(trained: TestClient, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    for value in (str(secret), base64.b64encode(b"no image").decode()):
        reply = trained.post("/v1/models/ner/predict", json={"inputs": {"image": value}})
        assert reply.status_code == 422
