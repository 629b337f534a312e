"""Writes a transcript beside a running service, in a thread of its own that the service never waits for."""

import asyncio
import os
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from typing import Any, Self, TextIO

import structlog

from hedgeserve._version import __version__
from hedgeserve.errors import TranscriptError
from hedgeserve.hedge import Observation, Plan, ZoneNews
from hedgeserve.replica import Offer
from hedgeserve.spec import HedgeSpec
from hedgeserve.transcript.entries import Encoder, Entry, Planned, Started

_log = structlog.get_logger("hedgeserve.transcript")

_MOST_WAITING = 10_000
"""Entries that may wait for the disk. More, and the transcript ends there: one with a gap would be no record."""
_CLOSE_LIMIT_S = 5.0


class TranscriptWriter:
    """An open transcript; an async context manager that has written everything when it is left.

    What is told here is handed to a thread and costs the caller no wait. A plan is an entry only where it, or
    what it was made from, differs from the one before: the time, and prices that were read again and are the
    same, make no difference. When the disk is full, fails or is too slow, the transcript ends with one warning,
    and :attr:`trouble` says so from then on.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._waiting: Queue[Entry | None] = Queue(_MOST_WAITING)
        self._last: Planned | None = None
        self._ending = threading.Lock()
        self._closed = False
        self.trouble = ""
        """What keeps it from being written, in a sentence; empty while all is well."""
        self._thread = threading.Thread(target=self._write, name="transcript", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Go on with the file at this path, or make it (readable by its owner alone).

        Raises:
            TranscriptError: It cannot be written.
        """
        try:
            return cls(path, await asyncio.to_thread(_open, path))
        except OSError as error:
            raise TranscriptError(
                f"the transcript {path} cannot be written: {error.strerror}; name another file, or none"
            ) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        with suppress(Full):  # then the thread has enough to do to see that it is over
            self._waiting.put_nowait(None)
        # A disk that hangs keeps nobody from stopping.
        await asyncio.to_thread(self._thread.join, _CLOSE_LIMIT_S)

    def started(self, hedge: HedgeSpec, memory: Mapping[str, Any] | None, memory_at_s: float) -> None:
        """The policy was made, and has taken up this memory (None: none)."""
        self._last = None
        at = datetime.now(UTC)
        self._put(Started(at=at, version=__version__, hedge=hedge, memory=memory, memory_at_s=memory_at_s))

    def heard(self, news: ZoneNews) -> None:
        """The policy has been told this."""
        self._put(news)

    def planned(self, observation: Observation, plan: Plan) -> None:
        """The policy was asked this and has answered so."""
        last, planned = self._last, Planned(observation, plan)
        self._last = planned
        if last is None or plan != last.plan or not _alike(observation, last.observation):
            self._put(planned)

    def _put(self, entry: Entry) -> None:
        if self.trouble:
            return
        try:
            self._waiting.put_nowait(entry)
        except Full:
            self._end("its disk is too slow")

    def _end(self, why: str) -> None:
        with self._ending:
            if self.trouble:
                return
            self.trouble = f"the transcript {self._path} has ended before its time: {why}"
        _log.warning("the transcript ends here, the service goes on", path=str(self._path), why=why)

    # In the thread

    def _write(self) -> None:
        encoder = Encoder()
        try:
            with self._file:
                while (entry := self._waiting.get()) is not None:
                    self._file.writelines(f"{line}\n" for line in encoder.lines(entry))
                    if self._waiting.empty():
                        self._file.flush()
                        if self._closed:
                            break
        except OSError as error:
            self._end(error.strerror or repr(error))
        except Exception as error:  # a bug of ours must not cost more than the transcript
            _log.exception("the transcript failed")
            self._end(repr(error))


def _open(path: Path) -> TextIO:
    cut = False
    if path.exists() and stat.S_ISREG(path.stat().st_mode) and path.stat().st_size:
        with path.open("rb") as before:
            before.seek(-1, os.SEEK_END)
            cut = before.read(1) != b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "a", encoding="utf-8")
    if cut:  # a crash left half a line; ours begin on a new one
        file.write("\n")
    return file


def _alike(one: Observation, other: Observation) -> bool:
    """Whether a policy can see no difference but that of the time."""
    return (
        one.target == other.target
        and one.replicas == other.replicas
        and (one.offers == other.offers or [*map(_price, one.offers)] == [*map(_price, other.offers)])
    )


def _price(offer: Offer) -> tuple[object, ...]:
    return offer.zone, offer.instance_type, offer.market, offer.usd_per_hour
