"""One picture is computed at a time, in a thread; the others wait. A request that is gone, or that has used up its
time, stops at the next network call."""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from torch import nn

from mspd.errors import MspdError
from mspd.verify import Verifier

T = TypeVar("T")

_GONE = "stopped: the request is gone"


class StoppedError(MspdError):
    """The work was stopped: its request is gone, or out of time."""


@dataclass
class Job:
    """What a request's work is doing, for whoever asks, and whether it should go on. `of` is 0 while unknown."""

    seconds: float
    stage: str = "waiting"
    done: int = 0
    of: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    until: float = float("inf")

    def start(self) -> None:
        self.until = time.monotonic() + self.seconds
        self.check()

    def reach(self, stage: str, done: int = 0, of: int = 0) -> None:
        self.check()
        self.stage, self.done, self.of = stage, done, of

    def check(self) -> None:
        """StoppedError when the request is gone or out of time."""
        if self.gone.is_set():
            raise StoppedError(_GONE)
        if time.monotonic() > self.until:
            raise StoppedError(f"took longer than {self.seconds:g} seconds; send a smaller picture")


_current: ContextVar[Job | None] = ContextVar("job", default=None)


def _check_current(*_: object) -> None:
    job = _current.get()
    if job is not None:
        job.check()


class Desk:
    """The loaded models, by preset, and the one place to compute at."""

    def __init__(self, *, seconds: float, device: str) -> None:
        self.seconds = seconds
        self.device = device
        self.under_way = 0
        self.jobs: dict[str, Job] = {}
        self.verifiers: dict[str, Verifier] = {}
        self.turn = anyio.CapacityLimiter(1)

    def models(self, preset: str, job: Job) -> Verifier:
        """The verifier of a preset, which has its protector, too: loaded once. To be called at the desk."""
        if preset not in self.verifiers:
            job.reach("loading")
            verifier = Verifier(preset, device=self.device)
            networks: list[nn.Module] = [verifier.protector.classifier, verifier.protector.backbone]
            for network in (*networks, *verifier.targets.values()):
                network.register_forward_pre_hook(_check_current)
            self.verifiers[preset] = verifier
        return self.verifiers[preset]

    async def run(self, request: Request, work: Callable[[Job], T], name: str | None) -> T:
        """work(job) in a thread, when it is its turn; `jobs` has it under `name` meanwhile. StoppedError when the
        client hangs up or the time is used up."""
        if name in self.jobs:
            raise HTTPException(409, f"a job {name} is under way; choose another name")
        job = Job(self.seconds)
        if name is not None:
            self.jobs[name] = job
        self.under_way += 1
        try:
            return await self._run(request, work, job)
        finally:
            self.under_way -= 1
            if name is not None:
                del self.jobs[name]

    async def _run(self, request: Request, work: Callable[[Job], T], job: Job) -> T:
        outcome: list[T] = []
        failure: list[Exception] = []

        def at_the_desk() -> T:
            job.start()
            return work(job)

        async def watch(scope: anyio.CancelScope) -> None:
            try:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                scope.cancel()  # leaves the queue; a thread that is at work ends by itself, at its next step
            finally:
                job.gone.set()

        _current.set(job)
        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            try:
                outcome.append(await anyio.to_thread.run_sync(at_the_desk, limiter=self.turn))
            except Exception as error:  # kept out of the group, which would wrap it
                failure.append(error)
            group.cancel_scope.cancel()
        if outcome:
            return outcome[0]
        raise failure[0] if failure else StoppedError(_GONE)
