"""Whichever happens first wins, and nobody is left running."""

import asyncio

import pytest

from hedgeserve.race import is_cancelled, race

pytestmark = pytest.mark.looptime


async def after(seconds: float, ended: list[str], name: str) -> str:
    """Sleep, and leave a mark however it ends."""
    try:
        await asyncio.sleep(seconds)
        return name
    finally:
        ended.append(name)


async def test_the_first_to_end_wins_and_the_others_are_ended() -> None:
    """Its name and its result come back; the losers have been awaited."""
    ended: list[str] = []
    won = await race(slow=after(9, ended, "slow"), fast=after(1, ended, "fast"))
    assert won == ("fast", "fast")
    assert ended == ["fast", "slow"]
    assert asyncio.get_running_loop().time() == 1


async def test_of_two_that_end_together_the_one_named_first_wins() -> None:
    """So that an order beats a failure that happens in the same turn."""
    ended: list[str] = []
    assert (await race(a=after(1, ended, "a"), b=after(1, ended, "b")))[0] == "a"


async def test_an_error_of_the_winner_is_raised_as_it_is() -> None:
    """Not wrapped in a group."""

    async def fail() -> None:
        raise LookupError("nothing here")

    ended: list[str] = []
    with pytest.raises(LookupError, match="nothing here"):
        await race(other=after(5, ended, "other"), failing=fail())
    assert ended == ["other"]


async def test_cancelled_from_outside_it_ends_all_contenders() -> None:
    """Nothing of it runs on."""
    ended: list[str] = []
    task = asyncio.create_task(race(a=after(5, ended, "a"), b=after(6, ended, "b")))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["a", "b"]


async def test_a_contender_that_cancels_itself_is_no_cancellation_of_the_caller() -> None:
    """It would end the caller in silence; it is an error instead, and the others are ended as ever."""

    async def stray() -> None:
        raise asyncio.CancelledError

    ended: list[str] = []
    with pytest.raises(RuntimeError, match="watch ended as cancelled"):
        await race(other=after(5, ended, "other"), watch=stray())
    assert ended == ["other"]


async def test_a_true_cancellation_is_told_from_a_stray_one() -> None:
    """By whether anybody has cancelled the task."""
    told: list[bool] = []

    async def ended_by(stray: bool) -> None:
        try:
            if stray:
                raise asyncio.CancelledError
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            told.append(is_cancelled())

    await ended_by(stray=True)
    task = asyncio.create_task(ended_by(stray=False))
    await asyncio.sleep(1)
    task.cancel()
    await task
    assert told == [False, True]
