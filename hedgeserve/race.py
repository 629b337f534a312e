"""Waiting for whichever of several things happens first, and telling true cancellations from stray ones."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(**contenders: Coroutine[Any, Any, Any]) -> tuple[str, Any]:
    """Run all until the first one ends, end the others, and return the winner's name and result.

    An exception of the winner is raised. When several end in the same turn of the loop the one named first
    wins. All have been awaited when this returns, also when the caller is cancelled.

    Raises:
        RuntimeError: The winner ended as cancelled, which nobody but itself can have done: as a CancelledError it
            would pass for a cancellation of the caller, and end that without a word.
    """
    tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in contenders.items()}
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        winner = next(name for name, task in tasks.items() if task.done())
        if tasks[winner].cancelled():
            raise RuntimeError(f"{winner} ended as cancelled, and nobody had cancelled it")
        return winner, tasks[winner].result()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def is_cancelled() -> bool:
    """Whether somebody has cancelled the task that this runs in; else a CancelledError in it is a stray one.

    Such a one comes out of a future that was cancelled by whoever owned it. It ends a task in silence: neither its
    TaskGroup nor anybody else hears of it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
