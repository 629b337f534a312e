"""What the notice watcher on a VM says, in typed events. Pure: reading its lines is the SSH session's work."""

import json
import math
import shlex
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from hedgeserve.drivers.base import Machine
from hedgeserve.replica import Notice


@dataclass(frozen=True, slots=True)
class Watching:
    """The watcher has started, or the metadata service answers again after trouble."""


@dataclass(frozen=True, slots=True)
class NoticeSeen:
    """The cloud has announced the end of the VM."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Rebalance:
    """The cloud says that the VM is more likely than others to be taken back: hedge, do not drain."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The watcher lives; said every two seconds."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The watcher cannot do its work, and why; said once until it changes."""

    what: str


@dataclass(frozen=True, slots=True)
class Remark:
    """The cloud has announced something that the engine should survive: the VM is frozen for some seconds."""

    what: str


@dataclass(frozen=True, slots=True)
class Approved:
    """The watcher was told to approve what was announced: done where ``refused`` is empty."""

    refused: str


WatchEvent = Watching | NoticeSeen | Rebalance | Alive | Trouble | Remark | Approved


def parse_line(line: str, now_s: float, utc_now: datetime) -> WatchEvent | None:
    """The event in one line of the watcher's output; None for anything else that a login shell may print.

    ``now_s`` is the monotonic clock on which the notice's deadline is to stand. The watcher's own "in so many
    seconds" is taken before its deadline by the VM's clock, which ``utc_now`` need not agree with.
    """
    try:
        told = json.loads(line)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    match told.get("event"):
        case "watching":
            return Watching()
        case "alive":
            return Alive()
        case "rebalance":
            return Rebalance()
        case "trouble":
            return Trouble(str(told.get("what", "")))
        case "remark":
            return Remark(str(told.get("what", "")))
        case "approved":
            return Approved(str(told.get("refused", "")))
        case "notice":
            in_s = _seconds_left(told.get("in_s"), told.get("deadline"), utc_now)
            return NoticeSeen(Notice(now_s + in_s, str(told.get("source", "unknown"))))
        case _:
            return None


def _seconds_left(in_s: object, deadline: object, utc_now: datetime) -> float:
    """Seconds until the end; a notice without any usable time means now."""
    with suppress(OverflowError):  # an integer in JSON may have hundreds of digits
        if isinstance(in_s, int | float) and not isinstance(in_s, bool) and math.isfinite(in_s):
            return max(float(in_s), 0.0)
    try:
        return max((datetime.fromisoformat(str(deadline)) - utc_now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def watcher_command(machine: Machine, *, path: str, poll_s: float) -> str:
    """The shell command that runs the watcher, which lies at ``path`` on the VM; the lease lies beside it.

    The interpreter is told to take nothing from the user's environment: it may be any Python from 3.8 on.
    """
    lease = str(PurePosixPath(path).with_name("lease"))
    words = (machine.python, "-IS", path, machine.dialect, machine.metadata_url, f"{poll_s:g}", lease)
    return f"exec {shlex.join(words)}"
