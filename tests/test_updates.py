"""Another model.toml for a service that runs: real processes, real streams, and none of them lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hedgeserve.core import Service
from hedgeserve.errors import SpecError, UpdateRefusedError
from hedgeserve.specfile import load_spec
from hedgeserve.store import Store
from tests.conftest import eventually, messages, processes_of, replicas, small_toml

SLOW = '["--load-time", "0s", "--tokens-per-second", "40"]'
OTHER = '["--load-time", "0s", "--tokens-per-second", "50"]'
BROKEN = '["--no-such-option"]'
QUICK = '\n[update]\nbake_time = "500ms"\n'


def write(directory: Path, *, more: str = QUICK, **changes: Any) -> Path:
    """The service's model.toml, as somebody would edit it."""
    file = directory / "model.toml"
    file.write_text(small_toml(directory, **{"args": SLOW, "replicas": "count = 2", **changes}) + more)
    return file


@asynccontextmanager
async def running(directory: Path, **changes: Any) -> AsyncIterator[Service]:
    """A service of two replicas, ready; that it leaves no process behind is checked at the end."""
    spec = load_spec(write(directory, **changes), {})
    async with Service(spec, environ={}) as service:
        await service.wait_ready(spec.replicas.lowest)
        yield service
    assert processes_of(directory) == []


async def apply(service: Service, **changes: Any) -> dict[str, Any]:
    """Have the file applied."""
    return await service.updates.applied(None, who="tester", why="a test", dry=False, digest=None, **changes)


class Clients:
    """Streams that go on and on; what becomes of each is counted."""

    def __init__(self, url: str, count: int = 4) -> None:
        self._url, self._count = url, count
        self.whole = 0
        self.lost: list[str] = []
        self.stop = False

    async def __aenter__(self) -> "Clients":
        self._tasks = [asyncio.create_task(self._go_on(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.stop = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self, number: int) -> None:
        async with aiohttp.ClientSession() as session:
            while not self.stop:
                trouble = await self._stream(session, number)
                if trouble:
                    self.lost.append(trouble)
                else:
                    self.whole += 1

    async def _stream(self, session: aiohttp.ClientSession, number: int) -> str:
        body = {"model": "demo", "prompt": f"Tale {number}", "max_tokens": 30, "stream": True, "temperature": 0}
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            if response.status != 200:
                return f"{response.status}: {await response.text()}"
            reason, done = None, False
            async for line in response.content:
                if line.strip() == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        return str(event["error"]["message"])
                    reason = event["choices"][0]["finish_reason"] or reason
            return "" if done and reason in ("length", "stop") else f"ended with {reason}, [DONE]: {done}"


async def test_what_needs_no_new_replica_holds_at_once_and_no_stream_notices(short_dir: Path) -> None:
    """Limits, counts and timeouts change while requests are answered; no replica is replaced."""
    async with running(short_dir) as service:
        before = {one["id"] for one in replicas(service)}
        async with Clients(service.url) as clients:
            await eventually(lambda: clients.whole >= 4)
            write(short_dir, replicas="count = 3", more='\n[limits]\nmax_body = "1 KiB"\n' + QUICK)
            done = await apply(service)
            assert done["rollout"] is None
            assert {one["key"]: one["effect"] for one in done["changes"]} == {
                "replicas.count": "live",
                "limits.max_body": "live",
            }
            await service.wait_ready(3)
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{service.url}/v1/completions", json={"prompt": "x" * 2000}) as response,
            ):
                assert response.status == 413
        assert clients.lost == []
        assert before < {one["id"] for one in replicas(service)}
        assert service.status()["model_version"] == 1
        assert any("replicas.count: 2 → 3" in message for message in await messages(service, "applied"))


@pytest.mark.parametrize("strategy", ["rolling", "blue-green"])
async def test_another_version_takes_the_place_of_the_old_one_without_a_lost_stream(
    short_dir: Path, strategy: str
) -> None:
    """All replicas are replaced while four clients stream; never fewer are ready than before."""
    more = QUICK + f'strategy = "{strategy}"\n'
    async with running(short_dir, more=more) as service:
        async with Clients(service.url) as clients:
            write(short_dir, args=OTHER, more=more)
            done = await apply(service)
            assert done["version"] == {"now": 1, "then": 2, "digest": done["version"]["digest"]}
            explained = await service.explain("now")
            assert f"version 1 is being replaced by version 2 ({strategy})" in explained["headline"]
            least = 2
            while (rollout := service.status()["rollout"]) is not None:
                assert all(one.startswith("Version 2 (") for one in rollout["waits_for"][:1])
                least = min(least, len(replicas(service, "ready")))
                await asyncio.sleep(0.05)
            await eventually(lambda: clients.whole >= 12)
        assert clients.lost == []
        assert least == 2
        assert {one["version"] for one in replicas(service, "ready")} == {2}
        told = await messages(service, "update")
        assert told[0] == f"version 2 takes the place of version 1 ({strategy}): a test"
        assert told[-1].startswith(("done: all replicas run version 2", "done: version 2 took all requests"))


@pytest.mark.parametrize("strategy", ["rolling", "blue-green"])
async def test_a_version_that_does_not_start_is_taken_back_by_itself(short_dir: Path, strategy: str) -> None:
    """Its replicas fail, the old ones serve on; a restart with the same file does not try it again."""
    more = QUICK + f'max_failures = 2\nstrategy = "{strategy}"\n'
    async with running(short_dir, more=more) as service:
        old = {one["id"] for one in replicas(service)}
        async with Clients(service.url) as clients:
            write(short_dir, args=BROKEN, more=more)
            await apply(service)
            await eventually(lambda: service.status()["model_version"] == 1, within_s=90)
            await eventually(lambda: service.status()["rollout"] is None)
        assert clients.lost == []
        assert old <= {one["id"] for one in replicas(service, "ready")}
        told = await messages(service, "update")
        assert any(one.startswith("version 2 is taken back, version 1 returns: 2 of its replicas") for one in told)
        listing = await service.updates.listing()
        assert [one["state"] for one in listing["rollouts"]] == ["done", "rolled_back", "done"]
    async with Service(load_spec(short_dir / "model.toml", {}), environ={}) as service:
        await service.wait_ready(2)
        assert {one["version"] for one in replicas(service)} == {1}
        assert any("which was taken back" in message for message in await messages(service, "note"))


async def test_a_person_goes_back_and_to_a_version_of_their_choice(short_dir: Path) -> None:
    """`rollback` leads to the version before, `--to` to any; what is not there is refused."""
    async with running(short_dir, replicas="count = 1") as service:
        await eventually(lambda: _proven(service))
        with pytest.raises(UpdateRefusedError, match="there is no version to go back to"):
            await service.updates.roll_back(None, who="tester", why="a test")
        write(short_dir, args=OTHER, replicas="count = 1")
        await apply(service)
        await eventually(lambda: service.status()["rollout"] is None)
        done = await service.updates.roll_back(None, who="tester", why="a test")
        assert {key: done[key] for key in ("from", "to", "strategy")} == {
            "from": 2,
            "to": 1,
            "strategy": "rollback",
        }
        assert (
            "model.toml still asks for version 2. A restart with it leaves the service at version 1"
            in done["note"]
        )
        await eventually(lambda: service.status()["rollout"] is None)
        assert {one["version"] for one in replicas(service, "ready")} == {1}
        with pytest.raises(UpdateRefusedError, match="there is no version 7; there are 1, 2"):
            await service.updates.roll_back(7, who="tester", why="a test")
        with pytest.raises(UpdateRefusedError, match="version 1 is the one that is wanted already"):
            await service.updates.roll_back(1, who="tester", why="a test")
        with pytest.raises(UpdateRefusedError, match=r"no version to go back to from version 1 .*taken back: 2;"):
            await service.updates.roll_back(None, who="tester", why="a second time")
        done = await service.updates.roll_back(2, who="tester", why="a test")
        assert (done["strategy"], done["note"]) == ("rolling", "")
        await eventually(lambda: {one["version"] for one in replicas(service, "ready")} == {2})


async def test_a_version_that_was_taken_back_is_applied_like_any_new_one(short_dir: Path) -> None:
    """With the strategy of the file, a few at a time, even while the way back is not over; a restart does not."""
    async with running(short_dir) as service:
        await eventually(lambda: _proven(service))
        write(short_dir, args=OTHER)
        await apply(service)
        await eventually(lambda: service.status()["rollout"] is None)
        await service.updates.roll_back(None, who="tester", why="it was slow")
        assert service.status()["rollout"] is not None
        plan = await service.updates.applied(None, who="tester", why="", dry=True, digest=None)
        assert plan["version"]["then"] == 2
        assert plan["rollout"]["strategy"] == "rolling"
        assert plan["rollout"]["extra"] <= 1
        assert plan["rollout"]["taken_back"] == "it was slow"
        listing = await service.updates.listing()
        assert [one["taken_back"] for one in listing["versions"]] == [None, "it was slow"]
        assert listing["way_back"] is None
        await eventually(lambda: service.status()["rollout"] is None)
    async with Service(load_spec(short_dir / "model.toml", {}), environ={}) as service:
        await service.wait_ready(2)
        assert {one["version"] for one in replicas(service)} == {1}
        assert any("which was taken back" in message for message in await messages(service, "note"))
        await apply(service)
        await eventually(lambda: service.status()["rollout"] is None)
        assert {one["version"] for one in replicas(service, "ready")} == {2}
        assert (await service.updates.listing())["way_back"] == 1


async def _proven(service: Service) -> bool:
    listing = await service.updates.listing()
    return all(one["proven_at"] for one in listing["versions"])


async def test_a_bad_file_changes_nothing(short_dir: Path) -> None:
    """Each mistake with its line; the service goes on as before, asked by hand or by a signal."""
    async with running(short_dir, replicas="count = 1") as service:
        (short_dir / "model.toml").write_text("[model]\nengine = 'demo'\nargs = 'x'\n")
        with pytest.raises(SpecError, match=r"model\.toml:3: model\.args: "):
            await apply(service)
        assert not await service.reload()
        trouble = await eventually(lambda: messages(service, "trouble"))
        assert "nothing has changed" in trouble[0]
        assert "model.toml:3" in trouble[0]
        assert service.status()["model_version"] == 1
        assert len(replicas(service, "ready")) == 1


async def test_what_only_a_restart_can_change_is_refused_whole(short_dir: Path) -> None:
    """Another address: no, and the count that changed with it stays as it was, too."""
    async with running(short_dir, replicas="count = 1") as service:
        write(short_dir, replicas="count = 2", listen="127.0.0.1:1")
        with pytest.raises(
            UpdateRefusedError, match=r"service\.listen \(line \d+\) is settled when the service st"
        ):
            await apply(service)
        seen = await service.updates.applied(None, who="t", why="", dry=True, digest=None)
        assert len(seen["refused"]) == 1
        assert service.spec.replicas.lowest == 1


async def test_a_file_that_changed_after_it_was_shown_is_not_applied(short_dir: Path) -> None:
    """What was agreed to is what is done."""
    async with running(short_dir, replicas="count = 1") as service:
        write(short_dir, replicas="count = 2")
        shown = await service.updates.applied(None, who="t", why="", dry=True, digest=None)
        assert shown["usd_per_hour"] == 0.3
        assert shown["usd_per_hour_then"] == 0.6
        write(short_dir, replicas="count = 100")
        with pytest.raises(UpdateRefusedError, match="has changed since it was shown"):
            await service.updates.applied(None, who="t", why="", dry=False, digest=shown["digest"])


async def test_a_signal_reloads_the_file(short_dir: Path) -> None:
    """As `systemctl reload` would."""
    async with running(short_dir, replicas="count = 1") as service:
        write(short_dir, replicas="count = 2")
        assert await service.reload()
        await service.wait_ready(2)


async def test_a_controller_that_was_killed_half_way_goes_on_with_the_rollout(short_dir: Path) -> None:
    """The store has the roll-out, each replica's row its version: the next run ends what this one began."""
    spec = load_spec(write(short_dir, service='on_exit = "keep"'), {})
    async with Service(spec, environ={}) as service:
        await service.wait_ready(2)
        await eventually(lambda: _proven(service))
        write(short_dir, args=OTHER, service='on_exit = "keep"')
        await apply(service)
        await eventually(lambda: any(one["version"] == 2 for one in replicas(service)))
        assert service.status()["rollout"] is not None
    store = await Store.open(short_dir / "state" / "journal.db")
    assert {one.version for one in await store.alive_replicas("small")} == {1, 2}
    await store.close()
    async with Service(load_spec(write(short_dir, args=OTHER), {}), environ={}) as service:
        assert service.status()["rollout"]["to"] == 2
        await eventually(lambda: service.status()["rollout"] is None)
        assert {one["version"] for one in replicas(service, "ready")} == {2}
    assert processes_of(short_dir) == []


async def test_a_file_that_was_edited_while_the_service_was_down_is_rolled_out(short_dir: Path) -> None:
    """What runs is adopted as what it is, and replaced in turn: nothing is mixed, nothing dropped."""
    spec = load_spec(write(short_dir, service='on_exit = "keep"'), {})
    async with Service(spec, environ={}) as service:
        await service.wait_ready(2)
        await eventually(lambda: _proven(service))
        old = {one["id"] for one in replicas(service)}
    async with Service(load_spec(write(short_dir, args=OTHER), {}), environ={}) as service:
        assert {one["id"] for one in replicas(service)} >= old
        assert service.status()["rollout"]["who"] == "start"
        await eventually(lambda: service.status()["rollout"] is None)
        assert {one["version"] for one in replicas(service, "ready")} == {2}
    assert processes_of(short_dir) == []


def other(directory: Path, **changes: Any) -> Path:
    """Another file, beside the one that the service is started with."""
    file = directory / "other.toml"
    file.write_text(small_toml(directory, **{"args": OTHER, "replicas": "count = 1", **changes}) + QUICK)
    return file


async def apply_other(service: Service, file: Path) -> dict[str, Any]:
    """Have another file applied."""
    return await service.updates.applied(str(file), who="tester", why="a test", dry=False, digest=None)


async def test_a_restart_with_an_unedited_file_keeps_what_was_applied_since(short_dir: Path) -> None:
    """It asks for nothing new, however often; a file that has been edited does, and for a true reason."""
    keep: dict[str, Any] = {"service": 'on_exit = "keep"', "replicas": "count = 1"}
    started = write(short_dir, **keep)
    applied = other(short_dir, **keep)
    async with Service(load_spec(started, {}), environ={}) as service:
        await eventually(lambda: _proven(service))
        done = await apply_other(service, applied)
        assert done["way_back"] == 1
        assert "the next start with that file keeps this version as long as" in done["next_start"]
        assert f"started with {started}" in done["next_start"]
        await eventually(lambda: service.status()["rollout"] is None)
        ids = {one["id"] for one in replicas(service, "ready")}
    for _ in range(2):
        async with Service(load_spec(started, {}), environ={}) as service:
            assert service.status()["model_version"] == 2
            assert service.status()["rollout"] is None
            assert {one["id"] for one in replicas(service)} == ids
            told = (await messages(service, "note"))[-1]
            assert f"version 2 of {applied}, applied at " in told
            assert f"stays: {started} asks for version 1 as it did at the last start" in told
            assert f"`hedgeserve apply {started}`" in told
            [adopted] = (await messages(service, "adopted"))[-1:]
            assert adopted == "taken up again: it has served, and is looked at"
            assert service._fleet.boot_s() is not None, (
                "boots are measured by the last launches, also after a restart"
            )
    write(short_dir, args='["--load-time", "0s", "--tokens-per-second", "60"]', replicas="count = 1")
    async with Service(load_spec(started, {}), environ={}) as service:
        rollout = service.status()["rollout"]
        assert (rollout["from"], rollout["to"]) == (2, 3)
        assert f"{started} asks for something else than when it was last read, at " in rollout["why"]
        await eventually(lambda: service.status()["rollout"] is None)
    assert processes_of(short_dir) == []


async def test_a_start_with_another_file_than_the_last_one_brings_that_in(short_dir: Path) -> None:
    """To be started with another file is to be asked for it, also where its words are old ones."""
    started, second = write(short_dir, replicas="count = 1"), other(short_dir)
    async with Service(load_spec(started, {}), environ={}):
        pass
    for file, last, version in ((second, started, 2), (started, second, 1)):
        async with Service(load_spec(file, {}), environ={}) as service:
            rollout = service.status()["rollout"]
            assert rollout["to"] == version
            assert rollout["why"] == f"the service was started with {file}, and the last time with {last}"
    assert processes_of(short_dir) == []


async def test_what_is_left_for_another_apply_was_not_taken_back(short_dir: Path) -> None:
    """The version that an unfinished roll-out leaves is applied again: one may still go back to the other."""
    started, second = write(short_dir, replicas="count = 1"), other(short_dir)
    async with Service(load_spec(started, {}), environ={}) as service:
        await eventually(lambda: _proven(service))
        await apply_other(service, second)
        await eventually(lambda: service.status()["rollout"] is None)
        await eventually(lambda: _proven(service))
        await apply_other(service, started)
        done = await apply_other(service, second)
        assert done["rollout"]["strategy"] == "rollback"
        assert done["way_back"] == 1
        listing = await service.updates.listing()
        assert listing["way_back"] == 1
        assert [one["taken_back"] for one in listing["versions"]] == [None, None]
        assert service.status()["rollout"]["can_roll_back"]
        back = await service.updates.roll_back(None, who="tester", why="it was slow")
        assert (back["from"], back["to"]) == (2, 1)
        listing = await service.updates.listing()
        assert [one["taken_back"] for one in listing["versions"]] == [None, "it was slow"]
        assert listing["way_back"] is None
    assert processes_of(short_dir) == []


async def test_each_name_is_answered_by_the_versions_that_know_it(short_dir: Path) -> None:
    """While `demo` becomes `sonnet`, both are served; afterwards only the new one, and a common alias always."""
    model = 'aliases = ["chat"]\n'
    more = '\n[update]\nbake_time = "2s"\n'

    def text(name: str) -> str:
        whole = small_toml(short_dir, args=SLOW, replicas="count = 1") + more
        return whole.replace('id = "demo"', f'id = "{name}"\n{model}')

    (short_dir / "model.toml").write_text(text("demo"))
    async with Service(load_spec(short_dir / "model.toml", {}), environ={}) as service:
        await service.wait_ready()
        await eventually(lambda: _proven(service))
        (short_dir / "model.toml").write_text(text("sonnet"))
        await apply(service)

        async def ask(name: str) -> tuple[int, str]:
            body = {"model": name, "prompt": "A fox", "max_tokens": 2}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{service.url}/v1/completions", json=body) as response,
            ):
                return response.status, response.headers.get("x-hedgeserve-replica", "")

        await eventually(lambda: len(replicas(service, "ready")) == 2)
        by_version = {one["version"]: one["id"] for one in replicas(service, "ready")}
        assert await ask("demo") == (200, by_version[1])
        assert await ask("sonnet") == (200, by_version[2])
        assert (await ask("chat"))[0] == 200
        await eventually(lambda: service.status()["rollout"] is None)
        while (await ask("demo"))[0] == 503:  # noqa: ASYNC110 - its last replica is gone, its name not yet
            await asyncio.sleep(0.01)
        assert (await ask("demo"))[0] == 404
        assert [(await ask(name))[0] for name in ("sonnet", "chat")] == [200, 200]
