"""Drills in services that run: real VMs of the local cloud, real streams, the verb as a person types it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from hedgeserve.cli import main
from hedgeserve.console.drill import _as_agreed
from hedgeserve.core import Service
from hedgeserve.drills.request import DrillRequest
from hedgeserve.drills.script import Means
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.errors import CloudError, LimitError, TraceError
from hedgeserve.simulate.record import record
from hedgeserve.simulate.replaying import replay_transcript
from tests.conftest import eventually, messages, replicas, small_spec, small_toml

TWO = {
    "replicas": "count = 2",
    "args": '["--load-time", "0s", "--tokens-per-second", "200"]',
    "local": 'notice = "3s"\nvanish_seen_after = "1s"',
}


@asynccontextmanager
async def running(directory: Path, **changes: Any) -> AsyncIterator[Service]:
    """Two replicas, ready."""
    async with Service(small_spec(directory, **{**TWO, **changes}), environ={}) as service:
        await service.wait_ready(service.spec.replicas.lowest)
        yield service


async def done(service: Service, **asked: Any) -> dict[str, Any]:
    """The report of a drill, once it has ended."""
    await service.drills.start({"within_s": 80, **asked})  # a busy machine boots slowly
    await eventually(lambda: service.drills.report()["running"] is None, within_s=100)
    return dict(service.drills.report()["last"])


async def typed(directory: Path, *arguments: str) -> Result:
    """The verb, while the service runs in this loop."""
    argv = ["drill", *arguments, "--state-dir", str(directory / "state")]
    return await asyncio.to_thread(CliRunner().invoke, main, argv)


async def test_a_preemption_with_streams_loses_nothing_and_is_told(short_dir: Path) -> None:
    """The verb sends its own streams, compares them, and reports; the journal says that it was a drill."""
    async with running(short_dir) as service:
        found = await typed(short_dir, "preempt", "--load", "8", "--yes", "--json", "--within", "90s")
        assert found.exit_code == 0, found.output
        report = json.loads(found.stdout.splitlines()[-1])  # the log of the service is above it
        assert (report["requests"]["lost"], report["load"]["failed"], report["load"]["other"]) == (0, 0, 0)
        assert report["load"]["whole"] >= 8
        assert report["load"]["deterministic"]
        assert 0 <= report["launched_s"] <= report["ready_again_s"]
        assert any("preemption notice" in sentence for sentence in report["decisions"])
        begins, over = await messages(service, "drill")
        assert list(report["notices"]) == report["victims"]
        assert begins.startswith(f"{report['drill']} begins: {report['victims'][0]} in local/")
        assert over.startswith(f"{report['drill']} is over: nothing was lost; capacity was back after")
        assert "hedgeserve_drill_running 0.0" in service._metrics.render().decode()


async def test_a_drill_teaches_the_zones_nothing(short_dir: Path) -> None:
    """While it lasts the zone is avoided as after a real preemption; then nobody remembers, in no file either."""
    async with running(short_dir) as service:
        before = dict(service.status())["zones"]
        report = await done(service, kind="blackout", for_s=1)
        assert report["ok"], report
        assert dict(service.status())["zones"] == before
        memory = await service._store.load_memory("spothedge")
        assert memory is None or (memory["moves"], memory["refusals"]) == ([], [])
        gone = [one for one in await service.events(limit=1000) if one["kind"] == "gone"]
        assert [one["data"]["staged"] for one in gone] == [True]
        try:
            recorded = record(short_dir / "state" / "journal.db", gap_s=1.0)
        except TraceError:
            recorded = None  # it had too little to tell
        assert recorded is None or all(min(zone.counts) >= 0 for zone in recorded.traces.zones)


async def test_refused_launches_and_a_silent_cloud_end_with_the_drill(short_dir: Path) -> None:
    """A replacement is refused, or waits, until the condition is over; then there is one."""
    async with running(short_dir, zones='["east/a"]') as service:
        report = await done(service, kind="refuse", take=True, for_s=2)
        assert report["ok"], report
        assert any("a drill has it refuse launches" in sentence for sentence in report["decisions"])
        assert report["ready_again_s"] > 2
        refused = [one for one in await service.events(limit=1000) if one["kind"] == "refused"]
        assert all(one["data"]["staged"] for one in refused)
        report = await done(service, kind="api-down", for_s=1)
        assert report["ok"], report
        await eventually(lambda: not service.status()["trouble"])


async def test_a_drill_goes_by_the_model_file_that_is_served_now(short_dir: Path) -> None:
    """The notice of the make-believe cloud is changed while it runs: the next drill waits for it."""
    async with running(short_dir) as service:
        before = await service.drills.rehearse({"kind": "preempt"})
        (short_dir / "small.toml").write_text(small_toml(short_dir, **{**TWO, "local": 'notice = "7s"'}))
        file = str(short_dir / "small.toml")
        await service.updates.applied(file, who="tester", why="a test", dry=False, digest=None)
        after = await service.drills.rehearse({"kind": "preempt"})
        assert after["within_s"] - before["within_s"] == pytest.approx(4.0, abs=0.11)


async def test_slow_boots_are_slow_and_no_measure_of_boots(short_dir: Path) -> None:
    """What is held back comes up later; the estimate of a boot does not hear of it."""
    async with running(short_dir) as service:
        usual_s = service._fleet.boot_s()
        report = await done(service, kind="slow-boot", take=True, by_s=4, for_s=3)
        assert report["ok"], report
        assert report["ready_again_s"] - report["launched_s"] >= 4
        assert service._fleet.boot_s() == usual_s


async def test_a_notice_that_its_cloud_cannot_give_is_given_and_kept(short_dir: Path) -> None:
    """As on AWS: the fleet hears it and replaces the replica, which is ended with its notice."""
    async with running(short_dir) as service:
        director, plan = service.drills, service.drills.plan(DrillRequest.read({"kind": "preempt", "notice_s": 6}))
        [victim] = plan.victims
        await director._take_one(replace(victim, means=Means.ANNOUNCE))
        await eventually(lambda: victim.replica not in [one["id"] for one in replicas(service)])
        told = await messages(service, "notice", "gone", replica=victim.replica)
        assert "the VM goes in 6 s (a drill: HedgeServe itself)" in told[0]
        assert "gone: preempted" in told[-1]
        await service.wait_ready(2)


async def test_what_a_cloud_says_after_its_notice_was_heard_is_no_trouble(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment of AWS fails where its VM has drained and been ended before; the drill has not."""
    async with running(short_dir) as service:
        driver = service.drills._cast.drivers["local"]
        preempt = cast(LocalDriver, driver).preempt

        async def and_fail(machine_id: str, *, notice_s: float | None = None) -> None:
            await preempt(machine_id, notice_s=notice_s)
            await eventually(lambda: any(one["state"] in ("noticed", "draining") for one in replicas(service)))
            raise CloudError("the experiment has failed: its VM is not there")

        monkeypatch.setattr(driver, "preempt", and_fail)
        report = await done(service, kind="preempt")
        assert report["ok"], report
        assert report["cut_short"] == ""


async def test_a_cloud_that_gives_no_notice_is_told_of_in_its_own_words(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drill ends at once, and has failed; the replica stays."""
    async with running(short_dir) as service:

        async def fail(machine_id: str, *, notice_s: float | None = None) -> None:
            raise CloudError("FIS says that the role cannot be assumed")

        monkeypatch.setattr(service.drills._cast.drivers["local"], "preempt", fail)
        report = await done(service, kind="preempt")
        assert not report["ok"]
        assert report["cut_short"].endswith("could not be taken: FIS says that the role cannot be assumed")
        assert len(replicas(service, "ready")) == 2


async def test_an_on_demand_replica_can_vanish_too(short_dir: Path) -> None:
    """It is terminated behind the fleet's back, and replaced."""
    async with running(short_dir, markets='["on_demand"]', fallback="true") as service:
        report = await done(service, kind="vanish")
        assert report["ok"], report
        assert len(report["victims"]) == 1
        assert report["ready_again_s"] is not None


async def test_decisions_of_before_and_after_a_drill_can_be_made_anew(short_dir: Path) -> None:
    """The policy is exchanged at a drill's end; the transcript says so, and a replay comes to the same plans."""
    path = short_dir / "transcript.jsonl"
    async with Service(small_spec(short_dir, **TWO), environ={}, transcript=path) as service:
        await service.wait_ready(2)
        assert (await done(service, kind="preempt", notice_s=2))["ok"]
        await done(service, kind="refuse", for_s=1)
    report = replay_transcript(path)
    assert report.differences == ()
    assert report.same == report.plans > 3
    assert report.runs == 3


def test_what_was_agreed_to_is_what_is_done() -> None:
    """Between the question and the answer another replica may have become the busiest."""
    plan = {"kind": "preempt", "zones": [], "cloud": "local", "victims": [{"replica": "s-1"}]}
    assert _as_agreed(plan, {"kind": "preempt"}) == {"cloud": "local", "prefer": "s-1"}
    assert _as_agreed(plan, {"kind": "preempt", "replica": "s-1"}) == {"cloud": "local"}
    assert _as_agreed(plan, {"kind": "preempt", "zone": "a"}) == {"cloud": "local"}
    plan = {"kind": "blackout", "zones": ["local/east/a"], "cloud": "local", "victims": [{"replica": "s-1"}]}
    assert _as_agreed(plan, {"kind": "blackout"}) == {"cloud": "local", "zone": "local/east/a"}
    plan = {"kind": "refuse", "zones": ["local/east/a"], "cloud": "local", "victims": [{"replica": "s-1"}]}
    named = {**plan, **_as_agreed(plan, {"kind": "refuse"})}
    asked = {key: named[key] for key in ("kind", "zone", "cloud", "prefer")}
    assert DrillRequest.read(asked).prefer == "s-1"


async def test_one_drill_at_a_time_and_not_the_last_replica(short_dir: Path) -> None:
    """Refused with exit code 3, and with what goes past it."""
    async with running(short_dir, replicas="count = 1", zones='["east/a"]') as service:
        found = await typed(short_dir, "vanish", "--yes")
        assert found.exit_code == 3
        assert "would leave no replica ready (1 now)" in found.stderr
        with pytest.raises(LimitError, match="leave no replica"):
            await service.drills.begin(DrillRequest.read({"kind": "vanish"}))
        await service.drills.start({"kind": "slow-boot", "for_s": 30})
        with pytest.raises(LimitError, match="goes on; one drill at a time"):
            await service.drills.start({"kind": "slow-boot"})
        assert any(note.startswith("a drill goes on: slow-boot-") for note in service.status()["plan"]["notes"])


async def test_a_drill_needs_a_yes_and_a_thing_that_can_be_done(short_dir: Path) -> None:
    """Nobody is there to answer: exit code 3; a replica that is not there: 1; a bad duration: 2."""
    async with running(short_dir) as service:
        found = await typed(short_dir, "preempt")
        assert (found.exit_code, "Nobody is there to answer" in found.stderr) == (3, True)
        found = await typed(short_dir, "preempt", "--replica", "small-99", "--yes")
        assert (found.exit_code, "there is no replica small-99 now" in found.stderr) == (1, True)
        found = await typed(short_dir, "preempt", "--within", "soon")
        assert found.exit_code == 2
        assert len(replicas(service, "ready")) == 2
        assert await messages(service, "drill") == []
