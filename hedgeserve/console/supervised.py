"""What the service manager is told while a service starts, runs and stops, and the sign of life that it waits for.

Everything is said by the event loop itself: a thread would go on saying that all is well while the loop hangs. The
sign of life needs the control loop too: requests would be served for a while from the last snapshot without it,
but no preemption would be answered any more, which is worse than the second that a restart takes.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import structlog

from hedgeserve.systemd.notify import Notifier

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
_TICK_PATIENCE_S = 60.0
_EXTEND_BY_S = 30.0
_EXTEND_EVERY_S = 10.0


class Supervised(Protocol):
    """What must be known of a service in order to speak for it."""

    @property
    def state(self) -> str:
        """``starting``, ``serving`` or ``stopping``."""

    @property
    def tick_age_s(self) -> float:
        """For how long the control loop has not come round; 0 where it does not run."""

    @property
    def headline(self) -> str:
        """How it is, in a few words."""


class Supervision:
    """Speaks for a service from entering to leaving it; where nobody listens, it does nothing at all.

    READY is sent by :meth:`serving`, once the endpoint answers and the fleet is reconciled. A start or a stop that
    takes its time asks for more of it, as long as the loop is alive: each has deadlines of its own.
    """

    def __init__(self, notifier: Notifier, service: Supervised) -> None:
        self._notifier = notifier
        self._service = service
        self._now_s = asyncio.get_running_loop().time
        self._owed_ready = False
        self._stopping = False
        self._told = ""
        self._extend_at_s = 0.0
        self._alive_at_s = 0.0
        self._hung = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._notifier:
            self._task = asyncio.create_task(self._speak(), name="service manager")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def serving(self) -> None:
        """The service has started."""
        self._owed_ready = True
        self._look()

    def stopping(self) -> None:
        """The service has been asked to stop."""
        self._stopping = self._notifier.stopping()
        self._extend_at_s = 0.0

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Around whatever reads settings anew; READY follows, however that ends: the old ones are in force
        then."""
        self._notifier.reloading()
        try:
            yield
        finally:
            self._owed_ready = True
            self._look()

    async def _speak(self) -> None:
        watchdog_s = self._notifier.watchdog_s
        every_s = _LOOK_EVERY_S if watchdog_s is None else min(_LOOK_EVERY_S, watchdog_s / 4)
        while True:
            self._look()
            await asyncio.sleep(every_s)

    def _look(self) -> None:
        """Say what is new, and what is due."""
        if not self._notifier:
            return
        now_s, state = self._now_s(), self._service.state
        if self._owed_ready:  # said until it has been heard: a start that nobody hears of is killed
            self._owed_ready = not self._notifier.ready()
        if state == "stopping" and not self._stopping:
            self._stopping = self._notifier.stopping()
        if state != "serving" and now_s >= self._extend_at_s:
            self._extend_at_s = now_s + _EXTEND_EVERY_S
            self._notifier.extend(_EXTEND_BY_S)
        if (line := self._service.headline) != self._told and self._notifier.status(line):
            self._told = line
        self._show_life(now_s)

    def _show_life(self, now_s: float) -> None:
        watchdog_s = self._notifier.watchdog_s
        hung = self._service.tick_age_s > _TICK_PATIENCE_S
        if hung and not self._hung:
            _log.error(
                "the control loop hangs; no more signs of life are given", for_s=round(self._service.tick_age_s)
            )
        self._hung = hung
        if watchdog_s is not None and not hung and now_s >= self._alive_at_s:
            self._alive_at_s = now_s + watchdog_s / 2 - min(_LOOK_EVERY_S, watchdog_s / 4)
            self._notifier.alive()
