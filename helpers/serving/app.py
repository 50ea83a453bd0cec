"""The HTTP interface: :func:`create_app` puts models, engine, schemas and the page together."""

# No `from __future__ import annotations`: the types of the routes are made for the models that there are.

import asyncio
import base64
import contextlib
import importlib.util
import ipaddress
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Union

from fastapi import APIRouter, Body, FastAPI, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, Field
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from torch import Tensor

from .. import __version__
from . import drawing, pictures, problems, schemas
from .catalogue import ServedModel, load_models, percentile
from .engine import Cancelled, Engine, Job, Shared
from .guards import BodyLimit, Counted, HeadAsGet, HostCheck, Interrupted, SafeHeaders
from .metrics import Metrics
from .problems import ProblemError
from .schemas import Wanted
from .settings import Settings

__all__ = ["create_app", "make_engine"]

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
LOCAL = ("127.0.0.1", "localhost", "[::1]")
ALWAYS = ("/healthz", "/readyz", "/v1/healthz", "/v1/readyz")  # for monitors, by whatever name they call
STOPPED = "the service has stopped before the work was done"
MAX_UNREAD = 16  # pictures of a stream that wait for whoever reads it
QUIET_SECONDS = 15.0  # a stream that has nothing to say says so, or something between would take it for dead

DESCRIPTION = """Pictures from the models of the course on diffusion and energy-based models.

* The same seed gives the same pictures, alone or among other requests, up to rounding (one grey level of 256).
* Errors are `application/problem+json` (RFC 9457): `errors` names each field, its limit and its value.
* A full queue answers 429 with `Retry-After`. Closing the connection cancels the work.
"""


class ClientGone(Exception):
    """Whoever asked has closed the connection."""


def make_engine(
    models: Mapping[str, ServedModel], settings: Settings | None = None, metrics: Metrics | None = None
) -> Engine:
    """The engine that settings describe, not started."""
    settings = settings or Settings()
    return Engine(
        models,
        batch_images=settings.batch_images,
        batch_wait=settings.batch_wait_ms / 1000,
        queue_size=settings.queue_size,
        threads=settings.threads,
        metrics=metrics,
    )


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The service, ready to be run by any ASGI server; models are loaded here, once.

    Args:
        settings: Limits and places; from the environment if None.
        engine: An engine that is not started; one with all models that the settings name if None. It is started with
            the app, and drained and closed with it.

    Raises:
        ValueError: If a model's file is damaged, or no model draws pictures.
        FileNotFoundError: If the folder of models is missing.
    """
    settings = settings or Settings()
    engine = engine or make_engine(load_models(settings), settings)
    drawing_models = {name: model for name, model in engine.models.items() if model.draws}
    types = {name: schemas.request_types(model, settings) for name, model in drawing_models.items()}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close, settings.drain_seconds)

    app = FastAPI(
        title="Course models",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(settings, engine.metrics),
    )
    app.state.engine, app.state.settings = engine, settings
    names = [{name: _names(made[k]) for name, made in types.items()} for k in range(2)]
    energies = {name: ["model"] for name, model in engine.models.items() if model.kind == "energy"}
    problems.install(app, dict(zip(("/v1/images", "/v1/images/stream", "/v1/energy"), (*names, energies), strict=True)))
    app.include_router(_models_router(engine, settings))
    app.include_router(_images_router(engine, settings, types))
    app.include_router(_energy_router(engine, settings))
    app.include_router(_health_router(engine))
    app.include_router(_health_router(engine), prefix="/v1", include_in_schema=False)
    _add_pages(app)
    _complete_openapi(app)
    return app


def _names(body: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in body.model_fields.items()]


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Names that the service may be called by; none are all."""
    if settings.allowed_hosts:
        return settings.allowed_hosts
    host = settings.host.lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return LOCAL if host == "localhost" else ()
    if not address.is_loopback:
        return ()
    own = f"[{address}]" if address.version == 6 else str(address)
    return tuple(dict.fromkeys((*LOCAL, own)))


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    json_only = (settings.max_json_bytes, ("application/json",))
    limits = {
        "/v1/images": json_only,
        "/v1/images/stream": json_only,
        "/v1/energy": (settings.max_picture_bytes, tuple(pictures.FORMATS)),
    }
    stack = [
        Middleware(Counted, metrics=metrics, paths=set(limits)),
        Middleware(HeadAsGet),
        Middleware(SafeHeaders),
        Middleware(Interrupted),
        Middleware(HostCheck, hosts=_hosts(settings), always=ALWAYS),
        Middleware(BodyLimit, limits=limits, other=settings.max_json_bytes, seconds=settings.body_seconds),
    ]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type"],
            expose_headers=["X-Seed", "X-Request-Id", "Retry-After"],
        )
        stack.insert(-1, cors)
    return stack


# ── models ────────────────────────────────────────────────────────────────


def _models_router(engine: Engine, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["models"])
    known = schemas.Models(models=[schemas.ModelInfo.of(model, settings) for model in engine.models.values()])

    @router.get("/models", summary="Models, and what can be asked of them")
    async def models() -> schemas.Models:
        return known

    return router


# ── pictures ──────────────────────────────────────────────────────────────


def _body_type(types: Mapping[str, type[BaseModel]], examples: dict[str, Any]) -> Any:
    """A request to one of the models: which one, the field ``model`` says."""
    first, *others = types.values()
    if not others:
        return Annotated[first, Body(openapi_examples=examples)]
    union = Annotated[Union[tuple(types.values())], Field(discriminator="model")]  # noqa: UP007
    return Annotated[union, Body(openapi_examples=examples)]


def _examples(engine: Engine, settings: Settings, **more: Any) -> dict[str, Any]:
    examples = {}
    for name, model in engine.models.items():
        if model.draws:
            value: dict[str, Any] = {"model": name, "n": min(4, settings.max_n), "seed": 1}
            value["steps"] = min(10, model.max_steps)
            if model.classes:
                value["class"] = model.classes[-1]
            if model.guided:
                value["guidance"] = min(3.0, settings.max_guidance)
            examples[name] = {"summary": f"Pictures of {name}", "value": value | more}
            if model.classes:
                mixture = {model.classes[0]: 2, model.classes[-1]: 1}
                examples[f"{name}: a mixture"] = {
                    "summary": f"A mixture of classes of {name}",
                    "value": value | {"class": mixture} | more,
                }
    return examples


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SEED_HEADER = {"X-Seed": {"description": "The seed of the pictures.", "schema": {"type": "integer"}}}
_REFUSED = (400, 408, 413, 415, 421, 422, 429, 500, 503)


_EVENTS = {
    "type": "object",
    "description": "One event.",
    "properties": {
        "event": {"type": "string", "enum": ["queued", "progress", "state", "done", "problem"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


def _images_router(
    engine: Engine, settings: Settings, types: Mapping[str, tuple[type[BaseModel], type[BaseModel]]]
) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"])
    images_body = _body_type({name: made[0] for name, made in types.items()}, _examples(engine, settings))
    stream_body = _body_type(
        {name: made[1] for name, made in types.items()}, _examples(engine, settings, frames=min(8, settings.max_frames))
    )
    schema = {"schema": {"$ref": "#/components/schemas/Images"}}
    made = {"image/png": _BINARY, "application/zip": _BINARY, "application/json": schema}
    stream = {"text/event-stream": {"schema": _EVENTS}}

    @router.post(
        "/images",
        summary="Draw pictures",
        response_class=Response,
        responses={
            200: {"description": "The pictures.", "content": made, "headers": _SEED_HEADER},
            **problems.responses(*_REFUSED),
        },
    )
    async def images(request: Request, body: images_body) -> Response:  # type: ignore[valid-type]
        wanted = Wanted.of(body, engine.models)
        job = _submit(engine, wanted, finish=lambda made: _encoded(made, wanted))
        try:
            content, media_type = await _result(engine, job, request)
        except ClientGone:
            return Response(status_code=499)
        return Response(content, media_type=media_type, headers={"X-Seed": str(wanted.seed)})

    @router.post(
        "/images/stream",
        summary="Draw pictures, and watch",
        description="Server-sent events: `queued` (requests before this one), `progress` (evaluations of the network), "
        "`state` (also the share of the way, and the pictures as they look then), `done` (the result, and with what it "
        "can be made again), or `problem`. Pictures are PNG files in base64.",
        response_class=Response,
        responses={
            200: {"description": "Events.", "content": stream, "headers": _SEED_HEADER},
            **problems.responses(*_REFUSED),
        },
    )
    async def images_stream(request: Request, body: stream_body) -> Response:  # type: ignore[valid-type]
        wanted = Wanted.of(body, engine.models)
        return _stream(engine, wanted, request.scope["state"]["request_id"])

    return router


def _submit(engine: Engine, wanted: Wanted, finish: Callable[[Tensor], Any], watch: drawing.Watch | None = None) -> Job:
    def sample(network: Shared) -> Tensor:
        return drawing.draw(network, wanted, watch)

    def finished(made: Tensor) -> Any:
        engine.metrics.images.labels(wanted.model.name).inc(len(made))
        return finish(made)

    return engine.submit(wanted.model, sample, finished, images=wanted.n, work=drawing.evaluations(wanted))


def _encoded(made: Tensor, wanted: Wanted) -> tuple[bytes, str]:
    """Pictures in the format that was asked for, and its media type."""
    if wanted.format == "png":
        return pictures.png_grid(made, wanted.scale, wanted.note()), "image/png"
    if wanted.format == "zip":
        return pictures.zip_of_pngs(made, wanted.scale, wanted.note()), "application/zip"
    labels = wanted.labels()
    answer = schemas.Images(
        model=wanted.model.name,
        seed=wanted.seed,
        steps=wanted.steps,
        sampler=wanted.sampler,
        guidance=wanted.guidance if wanted.model.guided else None,
        classes=None if labels is None else [wanted.model.classes[k] for k in labels],
        shape=list(wanted.model.shape),
        images=[base64.b64encode(picture).decode() for picture in pictures.pngs(made, wanted.scale)],
    )
    return answer.model_dump_json().encode(), "application/json"


async def _result(engine: Engine, job: Job, request: Request) -> Any:
    """What a job gives; cancelled, and its slot freed, if the client goes away first.

    Raises:
        ClientGone: In that case.
    """
    finished = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({finished, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():
            raise ClientGone
        if finished.cancelled():  # it was still waiting
            raise Cancelled
        return finished.result()
    except Cancelled as error:  # the service stops before the work is done
        raise ProblemError(503, STOPPED, headers={"Retry-After": "5", "Connection": "close"}) from error
    finally:
        gone.cancel()
        engine.cancel(job)
        finished.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ── streams ───────────────────────────────────────────────────────────────


class EventStream(StreamingResponse):
    """Server-sent events; whatever ends it, ``at_end`` is called."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], at_end: Callable[[], None], headers: Mapping[str, str]) -> None:
        # X-Accel-Buffering: a proxy before the service shall pass events on as they come.
        super().__init__(events, headers={**headers, "X-Accel-Buffering": "no"})
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until nobody listens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.at_end()


def _event(name: str, content: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


def _stream(engine: Engine, wanted: Wanted, request_id: str) -> Response:
    loop, ready = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Mapping[str, Any]]]()
    start, sent, asked, of = time.monotonic(), 0, 0, drawing.calls(wanted)
    unread = 0  # pictures in the queue; the event loop's own

    def put(name: str, content: Mapping[str, Any]) -> None:
        nonlocal unread
        if name == "state" and unread >= MAX_UNREAD:  # say how far it is, and keep no more pictures
            name, content = "progress", {key: content[key] for key in ("evaluation", "of")}
        unread += name == "state"
        ready.put_nowait((name, content))

    def tell(name: str, content: Mapping[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            loop.call_soon_threadsafe(put, name, content)

    def picture(made: Tensor, note: Mapping[str, Any] | None = None) -> str:
        return base64.b64encode(pictures.png_grid(made, wanted.scale, note)).decode()

    def watch(done: float, state: Tensor) -> None:
        nonlocal sent, asked
        progress: dict[str, Any] = {"evaluation": asked, "of": of}
        asked += 1
        due = math.floor(max(0.0, done) * wanted.frames) + 1  # states that should have been shown by now
        if sent < due:
            sent = due
            tell("state", progress | {"done": round(max(0.0, done), 4), "image": picture(state)})
        else:
            tell("progress", progress)

    def finish(made: Tensor) -> None:
        labels = wanted.labels()
        classes = None if labels is None else [wanted.model.classes[k] for k in labels]
        seconds = round(time.monotonic() - start, 3)
        note = wanted.note()
        tell("done", note | {"classes": classes, "seconds": seconds, "image": picture(made, note)})

    def ended(future: Any) -> None:
        error = Cancelled() if future.cancelled() else future.exception()
        if error is not None:
            stopped = isinstance(error, Cancelled)
            if not stopped:
                logger.error("request %s has failed", request_id, exc_info=error)
            answer = problems.problem(503, STOPPED) if stopped else problems.problem(500, "the work has failed")
            tell("problem", json.loads(answer.body))

    job = _submit(engine, wanted, finish, watch)
    tell("queued", {"position": engine.before(job)})
    job.future.add_done_callback(ended)

    async def events() -> AsyncIterator[str]:
        nonlocal unread
        while True:
            try:
                name, content = await asyncio.wait_for(ready.get(), QUIET_SECONDS)
            except TimeoutError:
                yield ": still at work\n\n"
                continue
            unread -= name == "state"
            yield _event(name, content)
            if name in {"done", "problem"}:
                return

    return EventStream(events(), lambda: engine.cancel(job), {"X-Seed": str(wanted.seed)})


# ── energies ──────────────────────────────────────────────────────────────


def _energy_router(engine: Engine, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["energies"])
    known = [name for name, model in engine.models.items() if model.kind == "energy"]
    others = [name for name in engine.models if name not in known]
    upload = {"required": True, "content": dict.fromkeys(pictures.FORMATS, _BINARY)}

    @router.post(
        "/energy",
        summary="The energy of a picture",
        description=f"The body is the picture itself, PNG or JPEG, at most {settings.max_picture_bytes} bytes and "
        f"{settings.max_picture_pixels} pixels. Its central square is resized to what the model takes. "
        f"Models with energies: {', '.join(known) or 'none yet'}.",
        responses=problems.responses(*_REFUSED, 404),
        openapi_extra={"requestBody": upload},
    )
    async def energy(
        request: Request,
        model: Annotated[str, Query(min_length=1, max_length=64, description="A model of kind energy.")],
    ) -> schemas.Energy:
        if model not in known:
            there = f"models with energies: {', '.join(known) or 'none'}; others: {', '.join(others)}"
            raise ProblemError(404, f"no energy of this name ({there})", field="model", limit=known, value=model)
        media_type = request.headers["content-type"].split(";")[0].strip().lower()
        served = engine.models[model]

        def measure(network: Shared) -> float | pictures.BadPicture:
            # Decoding costs time too, so it waits in the same queue.
            try:
                x = pictures.decode(content, media_type, served.shape, settings.max_picture_pixels)
            except pictures.BadPicture as error:
                return error
            return float(network(x))

        try:
            content = await request.body()
            value = await _result(engine, engine.submit(served, measure), request)
        except (ClientDisconnect, ClientGone):
            return Response(status_code=499)  # type: ignore[return-value]
        if isinstance(value, pictures.BadPicture):
            raise ProblemError(422, f"expected a picture: {value}", field="body", limit=value.limit, value=value.value)
        return schemas.Energy(model=model, energy=value, percentile=percentile(served.card, value))

    return router


# ── health ────────────────────────────────────────────────────────────────


def _health_router(engine: Engine) -> APIRouter:
    router = APIRouter(tags=["operation"])

    def health(status: str) -> schemas.Health:
        return schemas.Health(status=status, running=engine.n_running, waiting=engine.n_waiting)

    @router.get("/healthz", summary="Is it alive?", responses=problems.responses(503))
    async def healthz() -> schemas.Health:
        if not engine.alive:
            raise ProblemError(503, "the thread that evaluates networks has ended")
        return health("ok")

    @router.get("/readyz", summary="Does it take new requests?", responses=problems.responses(503))
    async def readyz() -> schemas.Health:
        if not engine.ready:
            raise ProblemError(503, "the service is about to stop", headers={"Retry-After": "5"})
        return health("ready")

    text = {"text/plain": {"schema": {"type": "string"}}}

    @router.get("/metrics", summary="For Prometheus", response_class=Response, responses={200: {"content": text}})
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


# ── pages ─────────────────────────────────────────────────────────────────


def _swagger_files() -> Path | None:
    """Where Swagger UI lies that came as a package, if it did."""
    found = importlib.util.find_spec("fastapi_offline")
    folder = Path(found.origin).parent / "static" if found and found.origin else None
    return folder if folder and (folder / "swagger-ui-bundle.js").is_file() else None


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    if (files := _swagger_files()) is not None:
        app.mount("/docs/files", StaticFiles(directory=files), name="docs-files")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        if files is None:
            return RedirectResponse("/openapi.json")
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: the interface",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/static/icon.svg",
        )


def _complete_openapi(app: FastAPI) -> None:
    """Schemas that only the answers written by hand use; and the 422 of FastAPI, which is none of ours, left out."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            parts = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (schemas.Images, schemas.Problem):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                parts.update(schema.pop("$defs", {}))
                parts[model.__name__] = schema
            for name in ("HTTPValidationError", "ValidationError"):
                parts.pop(name, None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
