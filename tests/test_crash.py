"""kill -9 of the controller at every step of a launch: the next start loses, leaks and doubles nothing."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import eventually, processes_of, small_toml


@asynccontextmanager
async def controller(directory: Path, **changes: Any) -> AsyncIterator[Process]:
    """`hedgeserve serve`, as a process of its own with JSON log lines; killed at the end if it still runs."""
    file = directory / "model.toml"
    file.write_text(small_toml(directory, **changes))
    command = [sys.executable, "-m", "hedgeserve", "serve", str(file), "--log-format", "json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_with(process: Process, *words: str) -> str:
    """The first line of the controller's output that holds all these words."""
    assert process.stdout is not None
    seen = []
    async with asyncio.timeout(30):
        async for raw in process.stdout:
            line = raw.decode()
            seen.append(line)
            if all(word in line for word in words):
                return line
    raise AssertionError("".join(seen))


async def status(directory: Path) -> dict[str, Any] | None:
    """What the admin socket says; None while nobody answers."""
    connector = aiohttp.UnixConnector(path=str(directory / "state" / "admin.sock"))
    try:
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://admin/admin/v1/status") as response,
        ):
            answer: dict[str, Any] = await response.json()
            return answer
    except aiohttp.ClientError:
        return None


async def message_with(directory: Path, words: str) -> str | None:
    """The latest event that says this; None while there is none."""
    told = await status(directory)
    said: list[str] = [event["message"] for event in told["events"]] if told else []
    return next((message for message in said[::-1] if words in message), None)


async def ready(directory: Path, count: int) -> dict[str, Any] | None:
    """The status, once so many replicas are ready and no other is there."""
    told = await status(directory)
    if told and [replica["state"] for replica in told["replicas"]] == ["ready"] * count:
        return told
    return None


@pytest.mark.parametrize(
    "moment",
    ["planned → provisioning", "provisioning → booting", "booting → loading", "loading → ready"],
)
async def test_kill_9_at_any_moment_of_a_launch_neither_loses_nor_doubles_a_vm(
    short_dir: Path, moment: str
) -> None:
    """Killed at the step, started again: as many VMs as wanted, each known, and all gone after Ctrl-C."""
    async with controller(short_dir) as first:
        await line_with(first, json.dumps(moment)[1:-1])
        first.kill()
        await first.wait()
    with closing(sqlite3.connect(short_dir / "state" / "journal.db")) as journal:
        has_served = journal.execute("SELECT state FROM replicas").fetchall() == [("ready",)]
    async with controller(short_dir) as second:
        told = await eventually(lambda: ready(short_dir, 1), within_s=40)
        vms = [path.name for path in (short_dir / "state" / "local").iterdir()]
        assert vms == [told["replicas"][0]["id"]]
        if moment not in ("planned → provisioning", "provisioning → booting"):
            assert vms == ["small-1"], "the VM that booted is adopted, not launched again"
            said = await eventually(lambda: message_with(short_dir, "→ ready"))
            if has_served:
                assert said == "loading → ready: it still serves"
            else:
                assert re.search(r"ready: it answered its first token \d+\.\d s after the launch, ", said)
        second.send_signal(signal.SIGINT)
        await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode == 0
    assert processes_of(short_dir / "state") == []


async def test_a_restart_serves_again_in_seconds_from_the_replicas_that_still_run(short_dir: Path) -> None:
    """kill -9 while serving: nothing is relaunched, and the next request is answered by the same replica."""
    # A load time that would show: a relaunched replica could not answer so soon.
    slow = '["--load-time", "5s", "--tokens-per-second", "100"]'
    # With the fallback on, a moment of doubt about the old replica would buy an on-demand one.
    changes = {"args": slow, "fallback": "true"}
    async with controller(short_dir, **changes) as first:
        told = await eventually(lambda: ready(short_dir, 1), within_s=40)
        first.kill()
        await first.wait()
    async with controller(short_dir, **changes) as second, aiohttp.ClientSession() as session:
        again = await eventually(lambda: ready(short_dir, 1), within_s=40)
        assert again["replicas"][0]["id"] == told["replicas"][0]["id"]
        assert again["replicas"][0]["url"] == told["replicas"][0]["url"]
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 2}
        async with session.post(f"{again['url']}/v1/completions", json=body) as response:
            assert response.status == 200
        assert not any(event["kind"] == "launch" for event in again["events"])
        second.send_signal(signal.SIGINT)
        await asyncio.wait_for(second.communicate(), 20)
    assert processes_of(short_dir / "state") == []


async def test_a_vm_that_died_with_its_controller_is_found_gone_and_replaced(short_dir: Path) -> None:
    """The journal says ready, the cloud lists nothing: the replica is gone, and another one is launched."""
    async with controller(short_dir) as first:
        await eventually(lambda: ready(short_dir, 1), within_s=40)
        first.kill()
        await first.wait()
    for pid in processes_of(short_dir / "state"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    async with controller(short_dir) as second:
        told = await eventually(lambda: ready(short_dir, 1), within_s=40)
        assert told["replicas"][0]["id"] == "small-2"
        second.send_signal(signal.SIGINT)
        await asyncio.wait_for(second.communicate(), 20)
    assert processes_of(short_dir / "state") == []


async def test_ctrl_c_lets_the_running_request_finish_and_a_second_one_does_not(short_dir: Path) -> None:
    """The first Ctrl-C drains: a stream in the middle is completed. The second ends it at once."""
    slow = '["--load-time", "0s", "--tokens-per-second", "10"]'
    for signals in (1, 2):
        async with controller(short_dir, args=slow) as process, aiohttp.ClientSession() as session:
            told = await eventually(lambda: ready(short_dir, 1), within_s=40)
            body = {"model": "demo", "prompt": "A fox", "max_tokens": 30, "stream": True, "ignore_eos": True}
            async with session.post(f"{told['url']}/v1/completions", json=body) as response:
                await response.content.readany()
                process.send_signal(signal.SIGINT)
                await line_with(process, "stopping")
                if signals == 2:
                    process.send_signal(signal.SIGINT)
                text = b""
                try:
                    text = await response.content.read()
                except aiohttp.ClientError:
                    assert signals == 2
            assert (b"[DONE]" in text) == (signals == 1)
            await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode is not None
        assert processes_of(short_dir / "state") == []


async def test_a_log_reader_that_goes_away_ends_neither_the_service_nor_its_tidiness(short_dir: Path) -> None:
    """`hedgeserve serve … 2>&1 | tee log`, and tee dies: requests are answered, and Ctrl-C leaves nothing."""
    async with controller(short_dir) as process, aiohttp.ClientSession() as session:
        told = await eventually(lambda: ready(short_dir, 1), within_s=40)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 2}
        for _ in range(3):
            async with session.post(f"{told['url']}/v1/completions", json=body) as response:
                assert response.status == 200
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert processes_of(short_dir / "state") == []
    assert not (short_dir / "state" / "admin.sock").exists()
