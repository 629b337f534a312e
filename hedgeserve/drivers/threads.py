"""Blocking cloud libraries under asyncio: a bounded pool of threads, each with a library object of its own.

Libcloud's drivers keep the last answer on themselves, so that two threads on one of them get each other's
answers; here no object is ever seen by two threads. A thread cannot be cancelled: a call that is given up goes on,
and who gave it up may say what becomes of its late result.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

A = TypeVar("A")
R = TypeVar("R")

_log = structlog.get_logger("hedgeserve.drivers")


@dataclass(slots=True)
class _Kept(Generic[A]):
    stamp: Hashable
    api: A


class CloudThreads(Generic[A]):
    """Runs calls on library objects that ``make(key)`` builds, one per thread and key.

    ``stamp(key)`` tells what an object depends on and does not notice by itself (the present credentials): when
    it changes, the object is built anew. Both are called in the threads and may block.
    """

    def __init__(
        self, name: str, make: Callable[[str], A], *, workers: int, stamp: Callable[[str], Hashable]
    ) -> None:
        self._name = name
        self._make = make
        self._stamp = stamp
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"hedgeserve-{name}")
        self._given_up: set[asyncio.Future[object]] = set()

    @property
    def given_up(self) -> int:
        """Calls that nobody waits for any more and that have not come back yet."""
        return len(self._given_up)

    async def call(self, key: str, work: Callable[[A], R], *, late: Callable[[R], None] | None = None) -> R:
        """The result of ``work`` on this key's object; raises what it raises.

        When the caller is cancelled (a deadline), the work goes on; ``late`` is then told its result.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._run, key, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                self._keep_track(future, late)
            raise

    def close(self) -> None:
        """Take no more calls; those that are under way end by themselves, at their own deadlines."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, key: str, work: Callable[[A], R]) -> R:
        kept: dict[str, _Kept[A]] = self._own.__dict__.setdefault("kept", {})
        stamp, known = self._stamp(key), kept.get(key)
        if known is None or known.stamp != stamp:
            known = kept[key] = _Kept(stamp, self._make(key))
        return work(known.api)

    def _keep_track(self, future: "asyncio.Future[R]", late: Callable[[R], None] | None) -> None:
        self._given_up.add(future)  # type: ignore[arg-type]

        def come_back(done: "asyncio.Future[R]") -> None:
            self._given_up.discard(done)
            if done.cancelled():
                return
            if (error := done.exception()) is not None:
                _log.info("a call that was given up has failed", cloud=self._name, error=type(error).__name__)
            elif late is not None:
                late(done.result())

        future.add_done_callback(come_back)
