"""Windows by the dozen: on this machine's cores or on a Dask cluster, with the same results wherever they run."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from typing import Any

from hedgeserve._version import __version__
from hedgeserve.errors import BacktestError, HedgeServeError
from hedgeserve.simulate.aggregate import WindowFigures
from hedgeserve.simulate.scenario import Scenario

Progress = Callable[[int, int], None]
"""Told after each simulated window how many are done, of how many."""


@dataclass(frozen=True, slots=True)
class Task:
    """One window of one scenario under one policy; ``scenario`` is its place in the list of them."""

    scenario: int
    policy: str
    window: int
    start_s: float
    seed: int


Work = Callable[[Scenario, Task], WindowFigures]
"""What is done with a task: a function of a module, which another process can find by its name."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What went wrong, as a text: not every exception survives the way between two processes."""

    message: str


def run_tasks(
    work: Work,
    scenarios: Sequence[Scenario],
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> list[WindowFigures]:
    """What came of each task, in their order, whatever the number of ``jobs`` (processes of this machine).

    ``scheduler`` is the address of a Dask scheduler (``tcp://host:8786``) whose workers have the same version of
    HedgeServe; ``jobs`` then means nothing.

    Raises:
        BacktestError: A window could not be simulated, or the scheduler not be used.
    """
    # The omniscient policy takes longest: begun first, it does not keep everybody waiting at the end.
    order = sorted(range(len(tasks)), key=lambda index: (tasks[index].policy != "omniscient", index))
    if scheduler is not None:
        results = _on_dask(scheduler, work, scenarios, tasks, order)
    elif jobs == 1 or len(tasks) == 1:
        results = ((index, _run(work, scenarios, tasks[index])) for index in order)
    else:
        results = _on_cores(min(jobs, len(tasks)), work, scenarios, tasks, order)
    found: dict[int, WindowFigures] = {}
    for index, result in results:
        if isinstance(result, _Failed):
            task = tasks[index]
            raise BacktestError(
                f"the window that begins {task.start_s:g} s into the record failed under {task.policy}: "
                f"{result.message}"
            )
        found[index] = result
        if progress is not None:
            progress(len(found), len(tasks))
    return [found[index] for index in range(len(tasks))]


def _run(work: Work, scenarios: Sequence[Scenario], task: Task) -> WindowFigures | _Failed:
    try:
        return work(scenarios[task.scenario], task)
    except HedgeServeError as error:
        return _Failed(str(error))


# On this machine

_received: tuple[Work, Sequence[Scenario]] | None = None
"""In a worker process: what it was sent once, at its start."""


def _receive(work: Work, scenarios: Sequence[Scenario]) -> None:
    global _received
    _received = work, scenarios


def _run_received(task: Task) -> WindowFigures | _Failed:
    if _received is None:
        raise RuntimeError("a worker was given work before the scenarios")
    work, scenarios = _received
    return _run(work, scenarios, task)


def _on_cores(
    jobs: int, work: Work, scenarios: Sequence[Scenario], tasks: Sequence[Task], order: Sequence[int]
) -> Iterator[tuple[int, WindowFigures | _Failed]]:
    # Spawned, not forked: a fork copies the threads' locks of whoever uses this as a library.
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_receive, initargs=(work, scenarios)
    )
    try:
        # (The tracker is up before, since to start it is to lift the mask.)
        resource_tracker.ensure_running()
        with _ctrl_c_later():
            futures = {pool.submit(_run_received, tasks[index]): index for index in order}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise BacktestError(
            "a worker process died (out of memory?); try fewer --jobs. From Python, call this below "
            '`if __name__ == "__main__":`'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Start worker processes whole: a Ctrl-C that comes meanwhile counts when all of them have what they need.

    The workers inherit the mask: a terminal's Ctrl-C reaches them too, and is the parent's to answer. It cancels
    what waits, and the windows at work are soon over. A mask holds for this thread alone: a thread of a numeric
    library may take the signal in its place, so that the handler waits as well.
    """
    came: list[int] = []
    handles = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGINT, lambda number, frame: came.append(number)) if handles else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handles:
            signal.signal(signal.SIGINT, signal.SIG_DFL if earlier is None else earlier)
    if came:
        signal.raise_signal(signal.SIGINT)


# On a cluster


def _on_dask(
    address: str, work: Work, scenarios: Sequence[Scenario], tasks: Sequence[Task], order: Sequence[int]
) -> Iterator[tuple[int, WindowFigures | _Failed]]:
    if "://" not in address or address.startswith("ray://"):
        raise BacktestError(
            f"{address} is no Dask scheduler, and only Dask is supported; write its address, such as tcp://host:8786"
        )
    try:
        import distributed
    except ImportError:
        raise BacktestError("a cluster needs Dask: pip install 'hedgeserve[dask]'") from None
    dask: Any = distributed
    try:
        client = dask.Client(address, timeout="15s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise BacktestError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        try:
            [sent] = client.scatter([tuple(scenarios)], hash=False, broadcast=True)
        except TimeoutError:
            raise BacktestError(f"the Dask scheduler at {address} has no workers; start some") from None
        futures = {client.submit(_run, work, sent, tasks[index], pure=False): index for index in order}
        try:
            for future in dask.as_completed(list(futures), loop=client.loop):
                yield futures[future], _result(future)
        finally:
            client.cancel(list(futures))


def _result(future: Any) -> WindowFigures | _Failed:
    try:
        result: WindowFigures | _Failed = future.result()
    except Exception as error:  # whatever went wrong over there, it is told and not repeated as a traceback
        raise BacktestError(
            f"a Dask worker failed ({type(error).__name__}: {error}); the workers need hedgeserve {__version__}"
        ) from error
    return result
