"""Processes of a measurement: each on one core, ended in any case, and what they have cost."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STOP_S = 5.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_MIB_KB = 1024
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds that a tree of processes has used, and those that it was kept waiting for a core."""

    cpu_s: float
    waited_s: float

    def since(self, before: "Cost") -> "Cost":
        """What has been added after ``before``."""
        return Cost(self.cpu_s - before.cpu_s, self.waited_s - before.waited_s)


@contextmanager
def running(
    command: Sequence[str],
    *,
    core: int,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """A process on one core; it and all that it has started are gone afterwards, whatever happens.

    Its output goes to ``log``; without one, stdout is a pipe.
    """
    out = subprocess.PIPE if log is None else log.open("w")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL if log is None else subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_on(core),
        )
    finally:
        if not isinstance(out, int):
            out.close()
    try:
        yield process
    finally:
        _stop(process)


def _on(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # a runner that is killed leaves nothing behind

    return prepare


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its children, and itself where it would not go
    except ProcessLookupError:
        pass
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def tree(pid: int, *, proc: Path = Path("/proc")) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                parent = parent_in((entry / "stat").read_text())
            except OSError:  # gone in between
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def parent_in(stat: str) -> int:
    """The parent's pid in a line of ``/proc/PID/stat``, whose second field may hold blanks and brackets."""
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def cost(pid: int, *, proc: Path = Path("/proc")) -> Cost:
    """What the tree has cost so far: all threads that live, in the scheduler's own nanoseconds."""
    ran_ns = waited_ns = 0
    for one in tree(pid, proc=proc):
        for path in (proc / str(one)).glob("task/*/schedstat"):
            try:
                ran, waited, *_ = path.read_text().split()
            except (OSError, ValueError):
                continue
            ran_ns += int(ran)
            waited_ns += int(waited)
    return Cost(ran_ns / 1e9, waited_ns / 1e9)


def pss_mib(pid: int, *, proc: Path = Path("/proc")) -> float:
    """The tree's memory, what processes share counted once."""
    kilobytes = 0
    for one in tree(pid, proc=proc):
        try:
            lines = (proc / str(one) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / _MIB_KB
