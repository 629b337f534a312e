"""The one way in which this house waits for whichever of several things happens first."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(**contenders: Coroutine[Any, Any, Any]) -> tuple[str, Any]:
    """Run all until the first one ends, end the others, and return the winner's name and result.

    An exception of the winner is raised. When several end in the same turn of the loop the one named first
    wins. All have been awaited when this returns, also when the caller is cancelled.
    """
    tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in contenders.items()}
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        winner = next(name for name, task in tasks.items() if task.done())
        return winner, tasks[winner].result()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
