"""The HTTP API and the page's files. The API describes itself at /openapi.json."""

import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import uvicorn
from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi import Path as PathField
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

import mspd
from mspd import images
from mspd.errors import MspdError, UsageError
from mspd.guard import number
from mspd.presets import PRESETS, Preset, get_preset
from mspd.protector import pick_device
from mspd.verify import Verification
from mspd.web.desk import Desk, Job
from mspd.web.door import Connection, Door, Limits, refusal
from mspd.web.meter import Counts, Meter

PAGE = Path(__file__).parent / "page"
JOB = "^[A-Za-z0-9-]{8,64}$"

Upload = Annotated[UploadFile, File()]
PresetField = Annotated[str, Form(description="A preset's name, see /api/presets.")]
SeedField = Annotated[int, Form(ge=0, le=2**63 - 1, description="Same seed, same bytes. Keep it private.")]
JobField = Annotated[str | None, Form(pattern=JOB, description="A random name, for /api/jobs/NAME.")]


@dataclass(frozen=True)
class Failure:
    """Every failure: one line that says what is wrong and what to do."""

    error: str


@dataclass(frozen=True)
class Health:
    status: str
    version: str
    limits: Limits


@dataclass(frozen=True)
class Progress:
    """How far a job is. stage: waiting, loading, protecting or attacking; `of` is 0 where there is nothing to count."""

    stage: str
    done: int
    of: int


_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "Not a form",
        403: "Unknown Host, or sent by another site's page",
        409: "A job of this name is under way",
        413: "Too large, or too slow to arrive",
        422: "A wrong field, or a picture that cannot be read or kept right",
        429: "Too many pictures are waiting",
        503: "The server is being stopped",
    }.items()
}
_PROTECTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The protected copy, decoded again and checked against the budget",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"Mspd-Report": {"description": "What was done, as JSON", "schema": {"type": "string"}}},
    }
}


async def _check_names(request: Request) -> None:
    """UsageError for a field that the call does not have, and for one sent twice: none is left out silently."""
    known = [field.name for field in request.scope["route"].dependant.body_params]
    sent = [name for name, _ in (await request.form()).multi_items()]
    for name in sent:
        if name not in known:
            raise UsageError(f"unknown field {name[:100]!r}: the fields are {', '.join(known)}")
        if sent.count(name) > 1:
            raise UsageError(f"{name} was sent {sent.count(name)} times: send one, and a call for each picture")


FORM = [Depends(_check_names)]


class Png(Response):
    media_type = "image/png"


def create_app(*, limits: Limits | None = None, host: str = "127.0.0.1", device: str = "auto") -> FastAPI:
    """The app of a server that is bound to `host`. Models are loaded when they are first needed."""
    bounds = limits or Limits()
    MultiPartParser.spool_max_size = bounds.bytes + 1  # nothing is spooled to a file
    desk = Desk(seconds=bounds.seconds, device=device)
    counts = Counts(lambda: desk.under_way)
    app = FastAPI(
        title="mspd", version=mspd.__version__, docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
        description="Protect pictures, so that robust classifiers keep reading them correctly under attack. "
        "A call stops when its connection is closed.",
    )  # fmt: skip
    app.add_middleware(Door, limits=bounds, host=host)
    app.add_middleware(Meter, counts=counts)
    _answer_errors(app)

    def decode(data: bytes, name: str) -> images.Picture:
        return images.decode(data, name, max_pixels=bounds.pixels)

    @app.post("/api/protect", response_class=Png, responses={**_PROTECTED, **_FAILURES}, dependencies=FORM)
    async def protect(
        request: Request,
        picture: Upload,
        preset: PresetField = "photo",
        eps: Annotated[str | None, Form(description="The budget, as 4/255; the preset's if left out.")] = None,
        seed: SeedField = 0,
        job: JobField = None,
    ) -> Response:
        """Protect a picture. The answer is the copy as PNG; its header Mspd-Report says what was done."""
        budget = get_preset(preset).eps if eps is None else number(eps)
        data, name = await picture.read(), _name(picture)

        def work(job: Job) -> tuple[bytes, dict[str, Any]]:
            protector = desk.models(preset, job).protector.with_eps(budget)
            job.reach("protecting")
            copy, report = protector.protect_picture(decode(data, name), f"{Path(name).stem}.protected.png", seed=seed)
            return copy, report.row()

        copy, report = await desk.run(request, work, job)
        headers = {"Mspd-Report": json.dumps(report), "Content-Disposition": _disposition(report["output"])}
        return Png(copy, headers=headers)

    @app.post("/api/verify", responses=_FAILURES, dependencies=FORM)
    async def verify(
        request: Request,
        original: Upload,
        protected: Upload,
        preset: PresetField = "photo",
        seed: SeedField = 0,
        job: JobField = None,
    ) -> Verification:
        """Attack a picture and its copy on robust models that the defence never saw: as they are, after JPEG 75, at
        half the size. Takes up to minutes."""
        get_preset(preset)
        files = [(await upload.read(), _name(upload)) for upload in (original, protected)]

        def work(job: Job) -> Verification:
            verifier = desk.models(preset, job)
            job.reach("attacking")
            before, after = (decode(*file) for file in files)
            return verifier.compare(
                before, after, seed=seed, progress=lambda done, of: job.reach("attacking", done, of)
            )

        return await desk.run(request, work, job)

    @app.get("/api/jobs/{job}", responses={404: {"model": Failure}})
    async def jobs(job: Annotated[str, PathField(pattern=JOB)]) -> Progress:
        """How far the call is that was given this name; 404 before it has arrived and after its answer."""
        if job not in desk.jobs:
            raise HTTPException(404, "no such job under way")
        found = desk.jobs[job]
        return Progress(found.stage, found.done, found.of)

    @app.get("/api/presets")
    async def presets() -> list[Preset]:
        """The presets: models, budget, size."""
        return list(PRESETS.values())

    @app.get("/api/health")
    @app.head("/api/health", include_in_schema=False)
    async def health() -> Health:
        """Whether the server answers, its version and its limits."""
        return Health("ok", mspd.__version__, bounds)

    @app.get("/api/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(counts.text())

    @app.get("/", include_in_schema=False)
    @app.head("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every failure of a call that can be foreseen is a 4xx of one line."""

    @app.exception_handler(MspdError)
    async def ours(_: Request, error: MspdError) -> JSONResponse:
        return refusal(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def field(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refusal(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        answer = refusal(error.status_code, error.detail)
        answer.headers.update(error.headers or {})
        return answer

    async def memory(_: Request, error: Exception) -> JSONResponse:
        return refusal(413, "too large for the memory; scale it down")

    app.add_exception_handler(MemoryError, memory)


def _name(upload: UploadFile) -> str:
    """The last part of the name that the client gave, printable and not too long."""
    last = (upload.filename or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(c for c in last if c.isprintable())[-100:]
    return name if name.strip(". ") else "picture"


def _disposition(name: str) -> str:
    """Content-Disposition; curl -J knows the plain form alone, which is for plain names."""
    quoted = quote(name, safe="")
    return f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=UTF-8''{quoted}"


def serve(host: str, port: int, *, device: str, ready: Callable[[str], None]) -> None:
    """Answer at host:port until interrupted; `ready` is told the address. UsageError when it cannot be bound, or for a
    device that is not there."""
    pick_device(device)
    if not host:  # which would be every address of this computer
        raise UsageError("--host is empty: name an address to listen at, for example 127.0.0.1")
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]  # which tells the address again
        raise UsageError(f"{host}:{port} cannot be used ({reason}); choose another --host or --port") from error
    with bound:
        config = uvicorn.Config(
            create_app(host=host, device=device), http=Connection, log_config=None, log_level="warning",
            access_log=False, server_header=False, proxy_headers=False, ws="none", timeout_graceful_shutdown=3,
        )  # fmt: skip
        # of the server's lines only our own errors: the others are about clients that speak no HTTP, or wait at Ctrl-C
        logging.getLogger("uvicorn.error").addFilter(lambda record: record.exc_info is not None)
        ready(f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])
