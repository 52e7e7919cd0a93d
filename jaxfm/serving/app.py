"""The HTTP interface: paths, status codes, and what may go wrong with a request."""

import asyncio
import base64
import binascii
import contextlib
import importlib.resources
import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import IO, Annotated, Any

import fastapi
from fastapi import Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from jaxfm import __version__
from jaxfm.errors import UserError, did_you_mean
from jaxfm.serving import schemas
from jaxfm.serving.batching import Batcher, BusyError, ExpiredError, InputError, StoppingError
from jaxfm.serving.guard import Guard
from jaxfm.serving.measures import CONTENT_TYPE, Measures
from jaxfm.serving.served import Limits, Served, is_cut

_LINES = "application/x-ndjson"
_IN_MEMORY = 2**20  # bytes of a batch; a larger one waits on disk
_MOST_BESIDE = 8
_ASSETS = {"page.js": "text/javascript", "page.css": "text/css"}
_OPEN = ("/", "/health", "/ready", "/openapi.json", "/static/")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": doc}
    for status, doc in {
        401: "The token is missing or wrong.",
        404: "There is no such model, or it cannot do this.",
        413: "The body, or its text, is too large.",
        422: "The model cannot read an input.",
        429: "The queue is full; see Retry-After.",
        503: "Programs are being compiled, or the server stops; see Retry-After.",
        504: "There was no answer before the deadline.",
    }.items()
}
Name = Annotated[str, Path(description="The name of a model, as /v1/models has it.")]


class RefusedError(Exception):
    """A request that gets no result."""

    def __init__(self, status: int, detail: str, retry: float = 0.0):
        super().__init__(detail)
        self.status, self.detail, self.retry = status, detail, retry


class Service:
    """The models of one server with their queues, and what state the server is in."""

    def __init__(self, models: Mapping[str, Served], limits: Limits):
        """Starts a queue a model."""
        self.models, self.limits, self.measures = dict(models), limits, Measures()
        self.batchers = {name: Batcher(name, model, limits, self.measures) for name, model in models.items()}
        self.ready = self.stopping = False
        self.beside = 0  # explanations and rankings under way
        self.lost = 0  # requests that were accepted and given up: the server was told to stop, and they did not end

    def count_done(self, done: "asyncio.Future[Any]") -> None:
        """Counts an explanation or a ranking that has ended; its error is looked at, which nobody may wait for."""
        self.beside -= 1
        if not done.cancelled():
            done.exception()

    def count_lost(self) -> None:
        """Counts a request that is given up."""
        self.lost += 1

    def close(self) -> None:
        """Answers what waits and takes nothing more."""
        self.stopping = True
        for batcher in self.batchers.values():
            batcher.close()

    def model(self, name: str) -> Served:
        """Returns a model by its name."""
        if name not in self.models:
            raise RefusedError(404, f"model {name!r}: {did_you_mean(name, list(self.models))}")
        return self.models[name]

    def check_open(self) -> None:
        """Refuses where there is no answer now."""
        if self.stopping:
            raise RefusedError(503, "the server stops", 5.0)
        if not self.ready:
            raise RefusedError(503, "programs are being compiled", 5.0)

    def records(self, name: str, inputs: Sequence[schemas.Input]) -> list[dict[str, Any]]:
        """Returns the records of inputs."""
        model, found = self.model(name), []
        if not inputs:
            raise RefusedError(422, "inputs: is empty; give one at least")
        if len(inputs) > self.limits.inputs:
            raise RefusedError(
                422, f"inputs: {len(inputs):,} are more than {self.limits.inputs:,}; use /batch, or several requests"
            )
        if (count := sum(map(_characters, inputs))) > self.limits.characters:
            raise RefusedError(
                413, f"inputs: have {count:,} characters, more than {self.limits.characters:,}; use /stream"
            )
        for number, each in enumerate(inputs, start=1):
            found.append(self.record(model, each, f"input {number}"))
        return found

    def record(self, model: Served, value: schemas.Input, origin: str) -> dict[str, Any]:
        """Returns the record of an input, whose image comes as base64: a path of this machine is never opened."""
        try:
            if isinstance(value, list):
                if len(value) != 2:
                    raise UserError(f"{origin}: a list is a pair of texts, but this one has {len(value)}.")
                return model.record(tuple(value), origin)
            if isinstance(value, str):
                return model.record({"text": value}, origin)
            if "image" in value:
                return model.record({**value, "image": _decoded(value["image"], origin)}, origin)
            return model.record(value, origin)
        except UserError as error:
            raise RefusedError(422, str(error)) from None

    async def answer(self, name: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the results of a request that was accepted: it is finished, also where the server stops."""
        try:
            waiting = asyncio.wrap_future(self.batchers[name].submit(records))
            return await asyncio.wait_for(waiting, self.limits.deadline)
        except BusyError as error:
            raise RefusedError(429, str(error), error.seconds) from None
        except StoppingError:
            raise RefusedError(503, "the server stops", 5.0) from None
        except (TimeoutError, ExpiredError):
            raise RefusedError(504, f"no answer within {self.limits.deadline:g} s") from None
        except InputError as error:
            raise RefusedError(422, str(error)) from None

    async def patient_answer(self, name: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same for a portion of a long request, which waits for room in the queue."""
        while True:
            try:
                return await self.answer(name, records)
            except RefusedError as refused:
                if refused.status != 429:
                    raise
                await asyncio.sleep(min(refused.retry, 1.0))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(each) for name, each in value.items() if name != "image")
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _decoded(value: Any, origin: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else b"?", validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{origin}: the image must be the bytes of a file in base64.") from None


def make_app(service: Service, *, token: str = "", hosts: Sequence[str] = ("*",)) -> Guard:
    """Returns the application.

    Args:
      service: the models.
      token: that requests must carry; "": none.
      hosts: names by which the server may be called ("*": any): a page elsewhere whose name is made to point here
        cannot ask.
    """
    app = fastapi.FastAPI(
        title="jaxfm",
        version=__version__,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _add_errors(app)
    _add_status(app, service)
    _add_models(app, service)
    _add_streams(app, service)
    _add_page(app)
    return Guard(
        app, body=service.limits.body, token=token, streamed=("/batch",), open_paths=_OPEN, lost=service.count_lost
    )


def _add_errors(app: fastapi.FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        headers = {"Retry-After": str(max(1, round(error.retry)))} if error.retry else {}
        return JSONResponse({"detail": error.detail}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(dict.fromkeys(found))[:1000]}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "internal error; the server's log has more"}, 500)


def _add_status(app: fastapi.FastAPI, service: Service) -> None:
    @app.get("/health", summary="Does the server live?")
    async def health() -> schemas.Status:
        return schemas.Status(status="ok")

    @app.get("/ready", summary="Does it answer?", responses={503: _PROBLEMS[503]})
    async def ready() -> schemas.Status:
        service.check_open()
        return schemas.Status(status="ready")

    @app.get("/metrics", summary="What it counts, as Prometheus reads it", response_class=Response)
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models", summary="The models", responses={401: _PROBLEMS[401]})
    async def models() -> schemas.Models:
        limits = service.limits
        shown = {"inputs": limits.inputs, "characters": limits.characters, "body": limits.body}
        return schemas.Models(
            models=[
                schemas.ModelInfo(
                    name=name,
                    task=model.task,
                    labels=list(model.labels),
                    step=model.step,
                    reads=_reads(model),
                    explains=model.explains,
                    ranks=model.embeds_texts and model.reads_texts,
                    limits=shown,
                )
                for name, model in service.models.items()
            ]
        )


def _reads(model: Served) -> list[str]:
    texts = ["text", *(["pair"] if model.pairs else [])] if model.reads_texts else []
    return [*texts, *(["image"] if model.reads_images else [])]


@contextlib.contextmanager
def _timed(service: Service, name: str, endpoint: str) -> Iterator[None]:
    """Counts a request and how it ended; names of models that there are not would be endless."""
    begun, status = time.monotonic(), 200
    try:
        yield
    except RefusedError as refused:
        status = refused.status
        raise
    except BaseException:
        status = 500
        raise
    finally:
        known = name if name in service.models else "unknown"
        service.measures.answered(known, endpoint, status, time.monotonic() - begun)


def _add_models(app: fastapi.FastAPI, service: Service) -> None:
    @app.post("/v1/models/{name}/predict", summary="The results of some inputs", responses=_PROBLEMS)
    async def predict(name: Name, request: schemas.PredictRequest) -> schemas.PredictReply:
        with _timed(service, name, "predict"):
            service.check_open()
            inputs = request.inputs if isinstance(request.inputs, list) else [request.inputs]
            results = await service.answer(name, service.records(name, inputs))
            return schemas.PredictReply(model=name, results=results, truncated=[is_cut(each) for each in results])

    @app.post("/v1/models/{name}/explain", summary="Which words a result is due to", responses=_PROBLEMS)
    async def explain(name: Name, request: schemas.ExplainRequest) -> schemas.ExplainReply:
        with _timed(service, name, "explain"):
            model = service.model(name)
            if not model.explains:
                raise RefusedError(404, f"model {name!r}: results of the task {model.task} are not explained")
            (record,) = service.records(name, [request.input])
            found = await _in_thread(service, model.explain, record)
            return schemas.ExplainReply(model=name, **found)

    @app.post("/v1/models/{name}/rank", summary="Texts by their similarity to one", responses=_PROBLEMS)
    async def rank(name: Name, request: schemas.RankRequest) -> schemas.RankReply:
        with _timed(service, name, "rank"):
            model = service.model(name)
            if not (model.embeds_texts and model.reads_texts):
                raise RefusedError(404, f"model {name!r}: the task {model.task} makes no vectors of texts")
            service.records(name, [request.query, *request.texts])
            found = await _in_thread(service, model.rank, request.query, request.texts)
            return schemas.RankReply(model=name, ranking=found)


async def _in_thread(service: Service, work: Any, *arguments: Any) -> Any:
    """Runs what the queue does not know, beside it; the model takes turns by its own lock."""
    service.check_open()
    if service.beside >= _MOST_BESIDE:
        raise RefusedError(429, "too many explanations and rankings are asked for at once", 1.0)
    service.beside += 1
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    running.add_done_callback(service.count_done)  # also where nobody waits for it any more
    try:
        return await asyncio.wait_for(asyncio.shield(running), service.limits.deadline)
    except UserError as error:
        raise RefusedError(422, str(error)) from None
    except TimeoutError:
        raise RefusedError(504, f"no answer within {service.limits.deadline:g} s") from None


def _add_streams(app: fastapi.FastAPI, service: Service) -> None:
    lines: dict[int | str, dict[str, Any]] = {
        200: {"content": {_LINES: {"schema": {"type": "string"}}}, "description": "A line of JSON for each result."}
    }

    @app.post(
        "/v1/models/{name}/stream",
        summary="The results of a long document, line by line, as they are found",
        responses=_PROBLEMS | lines,
        response_class=StreamingResponse,
    )
    async def stream(name: Name, request: schemas.StreamRequest) -> StreamingResponse:
        with _timed(service, name, "stream"):
            model = service.model(name)
            service.check_open()
            records = []
            start = 0
            for number, line in enumerate(request.text.split("\n"), start=1):
                records.append(({"line": number, "start": start}, service.record(model, line, f"line {number}")))
                start += len(line) + 1
            return StreamingResponse(_streamed(service, name, records), media_type=_LINES)

    @app.post(
        "/v1/models/{name}/batch",
        summary="The results of many inputs, a line of JSON each",
        responses=_PROBLEMS | lines,
        response_class=StreamingResponse,
        openapi_extra={
            "requestBody": {"required": True, "content": {_LINES: {"schema": {"type": "string"}}}},
        },
    )
    async def batch(name: Name, request: Request) -> StreamingResponse:
        with _timed(service, name, "batch"):
            model = service.model(name)
            service.check_open()
            # Read whole before the first result: many clients read nothing while they send, and each would wait for
            # the other.
            body = await _spooled(request, service.limits.batch)
            return StreamingResponse(_batch(service, name, model, body), media_type=_LINES)


async def _streamed(
    service: Service, name: str, records: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> AsyncIterator[str]:
    """Yields a line for each record, a portion at a time: its result, or why the model cannot read it."""
    size = service.limits.batch_inputs
    for first in range(0, len(records), size):
        portion = records[first : first + size]
        try:
            results = await service.patient_answer(name, [record for _, record in portion])
        except RefusedError as refused:  # the status was sent long ago
            if refused.status != 422 or len(portion) == 1:
                yield _line({**portion[0][0], "error": refused.detail})
                if refused.status != 422:
                    return
                continue
            for each in portion:  # one of them cannot be read
                async for line in _streamed(service, name, [each]):
                    yield line
            continue
        for (where, _), result in zip(portion, results, strict=True):
            yield _line({**where, "result": result, "truncated": is_cut(result)})


async def _spooled(request: Request, limit: int) -> IO[bytes]:
    """Returns a body as a file, in memory where it is small."""
    file, count = tempfile.SpooledTemporaryFile(_IN_MEMORY), 0
    try:
        async for piece in request.stream():
            count += len(piece)
            if count > limit:
                raise RefusedError(413, f"the body has more than {limit:,} bytes")
            file.write(piece)
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


async def _batch(service: Service, name: str, model: Served, body: IO[bytes]) -> AsyncIterator[str]:
    """Yields the result, or the error, of each line of a file, which it closes."""
    limit, number = service.limits.body, 0
    records: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    with body:
        while line := body.readline(limit + 1):
            number += 1
            error = ""
            if line.strip():
                try:
                    if len(line) > limit:
                        raise RefusedError(413, f"line {number}: has more than {limit:,} bytes; the rest is not read")
                    records.append(({"line": number}, _line_record(service, model, line, number)))
                except RefusedError as refused:
                    error = refused.detail
            if error or len(records) == service.limits.batch_inputs:
                async for each in _streamed(service, name, records):
                    yield each
                records = []
            if error:
                yield _line({"line": number, "error": error})
            if len(line) > limit:
                return
        async for each in _streamed(service, name, records):
            yield each


def _line_record(service: Service, model: Served, line: bytes, number: int) -> dict[str, Any]:
    origin = f"line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError(422, f"{origin}: is not JSON") from None
    if not isinstance(value, str | list | dict):
        raise RefusedError(422, f"{origin}: must be a text, a pair of texts or an object")
    if _characters(value) > service.limits.characters:
        raise RefusedError(413, f"{origin}: has more than {service.limits.characters:,} characters; use /stream")
    return service.record(model, value, origin)


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _add_page(app: fastapi.FastAPI) -> None:
    folder = importlib.resources.files("jaxfm.serving") / "page"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("index.html", *_ASSETS)}

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(texts["index.html"])

    @app.get("/static/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise RefusedError(404, "there is no such file")
        return Response(texts[name], media_type=_ASSETS[name])
