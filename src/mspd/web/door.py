"""Who may come in, and with how much: an ASGI layer around the app, which it answers for when it refuses.

A Host that is a stranger's name is refused (DNS rebinding: a page elsewhere that has its name lead here), and so is
whatever another site's page sends (a browser says so in Origin or Sec-Fetch-Site). Programs send neither header.
"""

import asyncio
import ipaddress
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """bytes: of one request's body; pixels: of one picture; waiting: requests with pictures at a time, all but one of
    them waiting; upload_seconds: until the body has arrived; seconds: of computing."""

    bytes: int = 100_000_000
    pixels: int = 50_000_000
    waiting: int = 4
    upload_seconds: float = 60.0
    seconds: float = 900.0


def refusal(status: int, line: str) -> JSONResponse:
    """What every failure looks like: a status and one line."""
    return JSONResponse({"error": " ".join(line.split())}, status)


class Connection(H11Protocol):
    """Cut off when its client has read nothing of an answer for `seconds`; its memory is free then."""

    seconds = 60.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.transport.set_write_buffer_limits(0)  # paused while anything is unread

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch()

    def watch(self) -> None:
        self.cut = self.loop.call_later(self.seconds, self.look, self.transport.get_write_buffer_size())

    def look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self.watch()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.cut.cancel()


class Door:
    """`host` is the name that the server was bound to."""

    def __init__(self, app: ASGIApp, *, limits: Limits, host: str) -> None:
        self.app = app
        self.limits = limits
        self.host = host.lower()
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
                started = True
            elif not message.get("more_body", False):
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}  # which waits until that has been read
            await send(message)

        posted = scope["method"] not in ("GET", "HEAD")
        answer = self._refuse(Headers(scope=scope), posted)
        if answer is not None:
            await answer(scope, receive, send_with_headers)
            return
        self.inside += posted
        try:
            await self.app(scope, self._measured(receive) if posted else receive, send_with_headers)
        except asyncio.CancelledError:  # the server ends, and has waited as long as it may
            if not started:
                await refusal(503, "the server has been stopped; try again later")(scope, receive, send_with_headers)
        finally:
            self.inside -= posted

    def _refuse(self, headers: Headers, posted: bool) -> JSONResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(hosts[0]):
            return refusal(403, "unknown Host: call this server by its address, for example http://127.0.0.1")
        if not posted:
            return None
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        strange = origin is not None and origin.lower().partition("://")[2] != hosts[0].lower()
        if strange or site not in ("none", "same-origin"):
            return refusal(403, "sent by another site's page: use this server's own page")
        with suppress(ValueError):
            if int(headers.get("content-length", "")) > self.limits.bytes:
                return refusal(413, self._too_large())
        if self.inside >= self.limits.waiting:
            answer = refusal(429, f"{self.inside} pictures are waiting already; try again later")
            answer.headers["Retry-After"] = "5"
            return answer
        return None

    def _known(self, host: str) -> bool:
        """An address cannot be rebound, so any is fine; of names, only localhost and the one the server has."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            if name in ("localhost", self.host):
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _measured(self, receive: Receive) -> Receive:
        """`receive` that ends a body which is too large or too slow."""
        left, arrived = self.limits.bytes, False
        deadline = time.monotonic() + self.limits.upload_seconds

        async def measured() -> Message:
            nonlocal left, arrived
            if arrived:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError as error:
                line = f"the upload took longer than {self.limits.upload_seconds:g} seconds; send a smaller picture"
                raise HTTPException(413, line) from error
            left -= len(message.get("body", b""))
            arrived = not message.get("more_body", False)
            if left < 0:
                raise HTTPException(413, self._too_large())
            return message

        return measured

    def _too_large(self) -> str:
        return f"larger than the limit of {self.limits.bytes / 1e6:g} MB; send a smaller picture"
