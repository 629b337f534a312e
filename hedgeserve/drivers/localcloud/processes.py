"""Which processes belong to a local VM, and how all of them are killed: read from ``/proc``, Linux only.

A VM's processes are found in three ways at once, because each alone has a hole: a marker in the environment
(inherited by everything, but wiped by programs that write their own title, ``sshd`` among them), descent from
a member (lost when a parent dies), and membership in a session that a member leads.

Where ``/proc`` cannot be read now (too many open files) ``OSError`` is raised: that says nothing on who lives.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hedgeserve.drivers.localcloud.trouble import NOT_THERE

MARKER_VARIABLE = "HEDGESERVE_VM"
"""The environment variable that every process of a local VM inherits."""

# Plain text and not paths: pathlib interns every part of a path, and thousands of process numbers that come and go
# make the interpreter move its table of interned strings, megabytes large, from one thread's heap to the next.
_PROC = "/proc"
_PR_SET_CHILD_SUBREAPER = 36
_DEAD_STATES = frozenset("ZXx")
_PAUSE_S = 0.005
_NOT_OURS = (*NOT_THERE, PermissionError)
"""What ``/proc`` says of a process that has ended, or that is somebody else's; VMs run as our own user."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: its number, when it started and in which boot of this machine, so that a number
    that is used again is not taken for it."""

    pid: int
    started_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    started_ticks: int


def become_subreaper() -> None:
    """Make every orphan among this process's descendants its child, whatever sessions they have made.

    Raises ``OSError`` where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def boot_id() -> str:
    """The random id of this boot of the machine; empty where the kernel does not tell."""
    try:
        return _content(f"{_PROC}/sys/kernel/random/boot_id").decode("ascii").strip()
    except _NOT_OURS:
        return ""


def identify(pid: int) -> Identity | None:
    """Who has this number now; None when nobody has, or only a zombie."""
    process = _read(pid)
    return None if process is None else Identity(pid, process.started_ticks, boot_id())


def lives(identity: Identity) -> bool:
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def reap(identity: Identity, *, patience_s: float = 1.0) -> None:
    """Collect a child of ours that was killed, so that no zombie stays; nothing to do for anybody else's.

    Blocks until its last thread is gone, for ``patience_s`` at most.
    """
    give_up_at_s = time.monotonic() + patience_s
    while time.monotonic() < give_up_at_s:
        found = _read(identity.pid, even_dead=True)
        if found is None or found.started_ticks != identity.started_ticks:
            return
        try:
            if os.waitpid(identity.pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(_PAUSE_S)


def family(marker: str, roots: Iterable[Identity] = ()) -> frozenset[int]:
    """The numbers of all live processes of the VM with this marker, ``roots`` and their descendants included."""
    table = {process.pid: process for process in map(_read, _numbers()) if process is not None}
    members = {pid for pid in table if _carries(pid, marker)}
    members |= {root.pid for root in roots if root.pid in table and lives(root)}
    growing = bool(members)
    while growing:
        more = {
            process.pid
            for process in table.values()
            if process.pid not in members and (process.parent in members or process.session in members)
        }
        members |= more
        growing = bool(more)
    return frozenset(members)


def stop_family(marker: str, roots: Collection[Identity] = (), *, spare: Collection[int] = ()) -> frozenset[int]:
    """Stop every process of a VM but the spared ones, those forked meanwhile included; returns them all."""
    found: frozenset[int] = frozenset()
    while (now_there := family(marker, roots) - frozenset(spare)) - found:
        _signal(now_there - found, signal.SIGSTOP)
        found |= now_there
    return now_there


def kill_family(
    marker: str, roots: Collection[Identity] = (), *, spare: Collection[int] = (), deadline_s: float = 10.0
) -> frozenset[int]:
    """Kill every process of a VM but the spared ones; returns those that are left, which is none but in trouble.

    All are stopped before the first is killed: a stopped process cannot fork behind our back, and nobody's
    parent is gone before the children have been found. A process in the middle of an exec shows no marker, so
    it takes two looks to believe that nobody is left. Blocks, for ``deadline_s`` at most.
    """
    give_up_at_s = time.monotonic() + deadline_s
    looked_empty = False
    while True:
        now_there = stop_family(marker, roots, spare=spare)
        if time.monotonic() > give_up_at_s or (looked_empty and not now_there):
            return now_there
        looked_empty = not now_there
        _signal(now_there, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _read(pid: int, *, even_dead: bool = False) -> _Process | None:
    try:
        text = _content(f"{_PROC}/{pid}/stat")
    except _NOT_OURS:
        return None
    if b")" not in text:  # it ended while it was read
        return None
    # The name stands in brackets and may hold anything, brackets and spaces included.
    fields = text[text.rindex(b")") + 2 :].decode("ascii").split()
    if fields[0] in _DEAD_STATES and not even_dead:
        return None
    return _Process(pid=pid, parent=int(fields[1]), session=int(fields[3]), started_ticks=int(fields[19]))


def _carries(pid: int, marker: str) -> bool:
    try:
        environment = _content(f"{_PROC}/{pid}/environ")
    except _NOT_OURS:
        return False
    return f"{MARKER_VARIABLE}={marker}".encode() in environment.split(b"\0")


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
