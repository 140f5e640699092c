"""Counts of what was answered, in the Prometheus text format; no names, no pictures."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLS = ("/api/protect", "/api/verify")


class Counts:
    """The metrics of one server; `waiting` tells how many pictures are under way."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("mspd_answers", "Answers by call and status", ["call", "status"], registry=self.registry)
        buckets = (0.5, 1, 2, 5, 10, 20, 60, 180, 600, float("inf"))
        self.seconds = Histogram("mspd_seconds", "Until answered", ["call"], registry=self.registry, buckets=buckets)
        gauge = Gauge("mspd_waiting", "Pictures under way or waiting", registry=self.registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Meter:
    """An ASGI layer that counts the answers to `CALLS`."""

    def __init__(self, app: ASGIApp, *, counts: Counts) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or call not in CALLS:
            await self.app(scope, receive, send)
            return
        started = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counts.answers.labels(call, str(message["status"])).inc()
                self.counts.seconds.labels(call).observe(time.monotonic() - started)
            await send(message)

        await self.app(scope, receive, counted)
