"""`hedgeserve traces`: what it fetches, prints, makes up and derives, and what it says when it cannot."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from hedgeserve.cli import main
from hedgeserve.console.traces import write_synthetic
from hedgeserve.errors import TraceError
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.fromspec import model_scenario, spot_zones
from hedgeserve.simulate.pull import SOURCES, Source, digest, pull
from hedgeserve.simulate.record import record
from hedgeserve.simulate.tracefiles import load_traces
from hedgeserve.specfile import load_spec
from hedgeserve.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HEDGESERVE_") and name != "HEDGESERVE_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["traces", *arguments])


def test_every_verb_and_option_is_documented() -> None:
    page = PAGE.read_text()
    traces: Any = main.commands["traces"]
    for verb in traces.commands.values():
        assert f"\n### `traces {verb.name}`\n" in page
        for parameter in verb.params:
            if parameter.param_type_name == "option":
                assert max(parameter.opts, key=len) in page, f"{verb.name} {parameter.opts}"


# pull


def content(counts: list[int]) -> bytes:
    return json.dumps({"metadata": {"gap_seconds": 300}, "data": counts}).encode()


FILES = {"us-east-1a_v100_1.json": content([1, 2, 0]), "us-east-1b_v100_1.json": content([0, 3, 4])}
SOURCE = Source(
    "aws-1", "two zones for a test", "data/AWS1", {name: str(digest(data)) for name, data in FILES.items()}
)


class Mirror:
    """A server with the files of FILES; what it should answer instead can be said for each."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.instead: dict[str, Callable[[], web.StreamResponse]] = {}
        self.revision = "df02263"
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        owner, repository, revision, folder = request.path.strip("/").split("/")[:4]
        assert (owner, repository, folder) == ("MaoZiming", "spothedge_ae", "data")
        name = request.path.rsplit("/", 1)[1]
        if name in self.instead:
            return self.instead[name]()
        if revision != self.revision:
            return web.Response(status=404)
        return web.Response(body=FILES[name])


@pytest_asyncio.fixture
async def mirror() -> AsyncIterator[Mirror]:
    served = Mirror()
    app = web.Application()
    app.router.add_get("/{path:.*}", served.answer)
    async with TestServer(app) as server:
        served.url = str(server.make_url("")).rstrip("/")
        yield served


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_public_trace_is_fetched_whole_and_can_be_loaded(mirror: Mirror, tmp_path: Path) -> None:
    told: list[str] = []
    paths = await pull(SOURCE, tmp_path / "new" / "aws-1", base_url=mirror.url, told=told.append)
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert names(tmp_path / "new" / "aws-1") == list(FILES)
    assert [zone.counts.tolist() for zone in load_traces(tmp_path / "new" / "aws-1")] == [[1, 2, 0], [0, 3, 4]]
    assert [line.split(",")[0] for line in told] == [f"{name} fetched" for name in FILES]


async def test_what_is_there_is_not_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    """An interrupted call is taken up by the next one."""
    mirror.instead["us-east-1b_v100_1.json"] = lambda: web.Response(status=503)
    with pytest.raises(TraceError, match="answered 503 for data/AWS1/us-east-1b"):
        await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert names(tmp_path) == ["us-east-1a_v100_1.json"]
    mirror.instead.clear()
    mirror.asked.clear()
    await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert [path.rsplit("/", 1)[1] for path in mirror.asked] == ["us-east-1b_v100_1.json"]
    assert names(tmp_path) == list(FILES)


@pytest.mark.parametrize("wrong", [content([1, 2, 1]), b"<html>", FILES["us-east-1a_v100_1.json"][:-3], b"[1]"])
async def test_a_file_with_a_wrong_checksum_is_not_kept(mirror: Mirror, tmp_path: Path, wrong: bytes) -> None:
    mirror.instead["us-east-1a_v100_1.json"] = lambda: web.Response(body=wrong)
    with pytest.raises(TraceError, match=r"us-east-1a_v100_1\.json from .* checksum differs"):
        await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert names(tmp_path) == []


async def test_the_same_counts_in_other_white_space_are_the_same_trace(mirror: Mirror, tmp_path: Path) -> None:
    loose = json.dumps(json.loads(FILES["us-east-1a_v100_1.json"]), indent=1).encode()
    mirror.instead["us-east-1a_v100_1.json"] = lambda: web.Response(body=loose)
    await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert (tmp_path / "us-east-1a_v100_1.json").read_bytes() == loose


async def test_a_body_without_end_is_cut_off(mirror: Mirror, tmp_path: Path) -> None:
    mirror.instead["us-east-1a_v100_1.json"] = lambda: web.Response(body=bytes(5 * 2**20))
    with pytest.raises(TraceError, match="not that trace"):
        await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert names(tmp_path) == []


async def test_another_revision_will_do_and_none_is_an_error(mirror: Mirror, tmp_path: Path) -> None:
    mirror.revision = "HEAD"
    await pull(SOURCE, tmp_path / "one", base_url=mirror.url)
    assert names(tmp_path / "one") == list(FILES)
    mirror.revision = "none"
    with pytest.raises(TraceError, match="no longer has data/AWS1/us-east-1a"):
        await pull(SOURCE, tmp_path / "two", base_url=mirror.url)


async def test_somebody_elses_file_is_not_replaced(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "us-east-1a_v100_1.json").write_text("mine")
    with pytest.raises(TraceError, match=r"us-east-1a_v100_1\.json is there and is not the file of aws-1"):
        await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert (tmp_path / "us-east-1a_v100_1.json").read_text() == "mine"
    assert mirror.asked == []


async def test_without_a_network_it_says_what_can_be_done(mirror: Mirror, tmp_path: Path) -> None:
    mirror.instead["us-east-1a_v100_1.json"] = _hang_up
    with pytest.raises(TraceError, match=r"cannot be reached .* Without a network, `hedgeserve traces synth "):
        await pull(SOURCE, tmp_path, base_url=mirror.url)
    assert names(tmp_path) == []


def _hang_up() -> web.StreamResponse:
    raise asyncio.CancelledError


async def test_the_command_tells_the_licence_first_and_asks(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there to answer: exit code 3, nothing asked of any server; with --yes it goes on."""
    monkeypatch.setitem(SOURCES, "aws-1", SOURCE)  # type: ignore[arg-type]
    refused = await asyncio.to_thread(run, "pull", "aws-1", "--out", "data", "--mirror", mirror.url)
    assert refused.exit_code == 3
    assert "states no licence: use the traces for measuring, do not redistribute" in refused.stderr
    assert (mirror.asked, names(tmp_path)) == ([], [])
    done = await asyncio.to_thread(run, "pull", "aws-1", "--out", "data", "--mirror", mirror.url, "--yes")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Next: `hedgeserve traces info data`" in done.stderr
    assert names(Path("data")) == list(FILES)


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_digests_are_those_of_the_recordings(name: str) -> None:
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("HEDGESERVE_DATA", default)) / "spot" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set HEDGESERVE_DATA to the folder with the recorded data")
    assert {path.name: digest(path.read_bytes()) for path in folder.glob("*.json")} == SOURCES[name].files


# info and synth


def test_made_up_traces_can_be_looked_at(tmp_path: Path) -> None:
    """`synth --preset`, then `info` in words and as JSON; what talks goes to stderr."""
    made = run("synth", "--preset", "volatile", "--days", "3", "--seed", "7", "--zones", "4", "--out", "made")
    assert (made.exit_code, made.stdout, made.stderr) == (0, "", "Wrote 4 files of 3d to made.\n")
    told = run("info", "made")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[0] == "made: 4 zones, 4320 counts every 1m, 3d in all"
    assert "note: made up: like volatile, seed 7" in told.stdout
    found = json.loads(run("info", "made", "--json").stdout)
    assert [zone["zone"] for zone in found["zones"]][:2] == ["synthetic/east/east-a", "synthetic/east/east-b"]
    assert found["duration_s"] == 3 * 86400


def test_traces_like_others_have_their_zones(tmp_path: Path) -> None:
    run("synth", "--preset", "calm", "--days", "9", "--out", "one")
    made = run("synth", "--like", "one", "--days", "2", "--out", "two")
    assert made.exit_code == 0
    one, two = load_traces(Path("one")), load_traces(Path("two"))
    assert [zone.zone for zone in one] == [zone.zone for zone in two]
    assert two.duration_s == 2 * 86400


def test_ones_can_be_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content([1, 0, 1]))
    assert json.loads(run("info", ".", "--json").stdout)["zones"][0]["highest"] is None
    assert json.loads(run("info", ".", "--json", "--ones-are", "one").stdout)["zones"][0]["highest"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["info", "nowhere"], 1, "hedgeserve: there is no folder nowhere"),
        (["synth", "--out", "x"], 2, "--like DIR or --preset NAME"),
        (["synth", "--out", "x", "--preset", "calm", "--like", "y"], 2, "--like DIR or --preset NAME"),
        (["synth", "--out", "x", "--preset", "calm", "--days", "0"], 2, "--days"),
        (["synth", "--out", "x", "--preset", "calm", "--days", "0.0001"], 1, "would be empty"),
        (["synth", "--out", "x", "--like", "nowhere"], 1, "there is no folder nowhere"),
        (["pull", "aws-9", "--out", "x"], 2, "aws-9"),
        (["record", "--state-dir", "nowhere", "--out", "x"], 1, "there is no journal"),
        (["record", "--state-dir", "nowhere", "--out", "x", "--gap", "60"], 2, "is not a duration"),
        (["record", "--state-dir", "nowhere", "--out", "x", "--gap", "0s"], 2, "must be above 0s"),
        (["record", "--state-dir", "nowhere", "--out", "x", "--since", "noon"], 2, "is neither a time"),
    ],
)
def test_mistakes_are_told_and_write_nothing(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert not Path("x").exists()


def test_a_folder_with_traces_is_not_written_over() -> None:
    assert run("synth", "--preset", "calm", "--days", "1", "--out", "made").exit_code == 0
    again = run("synth", "--preset", "calm", "--days", "1", "--out", "made")
    assert again.exit_code == 1
    assert "made already holds" in again.stderr


# record

NOW = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
A, B, C = ZoneId("aws/us-east-1/us-east-1a"), ZoneId("aws/us-east-1/us-east-1b"), ZoneId("gcp/x/x-a")


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


class Fleet:
    """Writes a journal as the fleet writes it: rows, and one event a step."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lives: dict[str, Replica] = {}
        self._tokens = 0

    async def launch(
        self, minutes: float, zone: ZoneId, market: Market = Market.SPOT, kind: str = "p3.2xlarge"
    ) -> ReplicaId:
        """A launch that is granted half a minute after the intent."""
        replica = await self.ask(minutes - 0.5, zone, market, kind)
        await self._to(minutes, replica, State.BOOTING, vm_id=f"vm-{replica}")
        return replica

    async def ask(
        self, minutes: float, zone: ZoneId, market: Market = Market.SPOT, kind: str = "p3.2xlarge"
    ) -> ReplicaId:
        offer = Offer(zone, kind, market, 1.0, NOW)
        self._tokens += 1
        id = await self._store.new_replica("chat", offer, f"token-{self._tokens}", "wanted", at(minutes))
        await self._store.record_event("launch", "a replica", replica=id, zone=zone, at=at(minutes))
        self._lives[id] = Replica(id=id, offer=offer, state=State.PLANNED, since_s=0.0, created_at=at(minutes))
        await self._to(minutes, id, State.PROVISIONING)
        return id

    async def refused(
        self, minutes: float, zone: ZoneId, *, kind: str = "capacity", market: Market = Market.SPOT
    ) -> None:
        id = await self.ask(minutes - 0.5, zone, market)
        await self._store.record_event("refused", "no", replica=id, zone=zone, data={"kind": kind}, at=at(minutes))
        await self._to(minutes, id, State.GONE, gone=GoneReason.FAILED)

    async def end(self, minutes: float, id: ReplicaId, gone: GoneReason) -> None:
        """The VM is being taken away, and a minute later nothing is left."""
        await self._to(minutes, id, State.TERMINATING, gone=gone)
        await self._to(minutes + 1, id, State.GONE, gone=gone)

    async def _to(self, minutes: float, id: ReplicaId, state: State, **more: Any) -> None:
        before = self._lives[id]
        after = self._lives[id] = before.to(state, now_s=minutes * 60, why="so it goes", **more)
        await self._store.save(after, at=at(minutes))
        data = {"market": str(after.market)} | ({"gone": str(after.gone)} if after.gone else {})
        kind = "gone" if state is State.GONE else "state"
        message = f"{before.state} → {state}: so it goes"
        await self._store.record_event(kind, message, replica=id, zone=after.zone, data=data, at=at(minutes))

    async def still(self, minutes: float) -> None:
        """The last entry of the journal."""
        await self._store.record_event("note", "still here", at=at(minutes))


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    (tmp_path / "chat").mkdir()
    opened = await Store.open(tmp_path / "chat" / "journal.db")
    yield opened
    await opened.close()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "chat" / "journal.db"


async def test_capacity_is_what_was_held_until_a_refusal_or_a_preemption_says_more(
    store: Store, journal: Path
) -> None:
    """Two VMs in A, one released (still believed), a refusal at one, a preemption to none; B is refused only."""
    fleet = Fleet(store)
    one = await fleet.launch(0, A)
    two = await fleet.launch(2, A)
    await fleet.end(4, two, GoneReason.SCALED_DOWN)
    await fleet.refused(6, A)
    await fleet.end(8, one, GoneReason.PREEMPTED)
    await fleet.refused(3, B)
    await fleet.launch(9, C, Market.ON_DEMAND)
    await fleet.refused(9, C, market=Market.ON_DEMAND)
    await fleet.still(12)
    recording = record(journal)
    assert {zone.zone: zone.counts.tolist() for zone in recording.traces} == {
        A: [1, 1, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0],  # the release at 4 changes nothing, the refusal at 6 does
        B: [0] * 12,
    }
    assert recording.metadata[A]["observed_share"] == pytest.approx(9 / 12, abs=1e-4)
    assert recording.metadata[B]["observed_share"] == pytest.approx(1 / 12, abs=1e-4)
    assert recording.metadata[A]["recorded_from"] == NOW.isoformat()
    assert len(recording.traces.notes) == 1


async def test_only_refusals_for_capacity_tell_of_capacity(store: Store, journal: Path) -> None:
    """A quota says nothing of the zone; a VM that failed was there."""
    fleet = Fleet(store)
    one = await fleet.launch(0, A)
    await fleet.refused(2, A, kind="quota")
    await fleet.refused(3, B, kind="auth")
    await fleet.end(4, one, GoneReason.FAILED)
    await fleet.still(6)
    assert {zone.zone: zone.counts.tolist() for zone in record(journal).traces} == {A: [1] * 6}


async def test_a_sample_is_the_least_that_was_believed_within_it(store: Store, journal: Path) -> None:
    """A VM that is taken and replaced within one gap still leaves its mark."""
    fleet = Fleet(store)
    one = await fleet.launch(0, A)
    await fleet.end(11, one, GoneReason.PREEMPTED)
    await fleet.launch(13, A)
    await fleet.still(30)
    assert record(journal, gap_s=600).traces.zones[0].counts.tolist() == [1, 0, 1]


async def test_the_window_can_be_cut_and_what_was_before_is_still_known(store: Store, journal: Path) -> None:
    fleet = Fleet(store)
    await fleet.launch(0, A)
    await fleet.launch(1, A)
    await fleet.refused(4, B)
    await fleet.still(20)
    for since in (timedelta(minutes=5), at(15)):
        cut = record(journal, since=since).traces
        assert {zone.zone: zone.counts.tolist() for zone in cut} == {A: [2] * 5, B: [0] * 5}
    with pytest.raises(TraceError, match="0 samples of 60 s"):
        record(journal, since=at(60))


async def test_a_life_whose_events_are_forgotten_is_known_from_its_row(store: Store, journal: Path) -> None:
    fleet = Fleet(store)
    one = await fleet.launch(0.5, A)
    await fleet.end(5, one, GoneReason.PREEMPTED)
    await fleet.still(10)
    await store.prune_events(1)
    assert record(journal).traces.zones[0].counts.tolist() == [1] * 6 + [0] * 4


async def test_instance_types_of_one_zone_are_kept_apart(store: Store, journal: Path) -> None:
    fleet = Fleet(store)
    await fleet.launch(0, A, kind="p3.2xlarge")
    await fleet.refused(3, A)
    await fleet.launch(4, A, kind="g5.xlarge")
    await fleet.launch(5, B, kind="g5.xlarge")
    await fleet.still(8)
    with pytest.raises(TraceError, match=r"was asked for g5\.xlarge and p3\.2xlarge.*--instance-type"):
        record(journal)
    only = record(journal, instance_type="g5.xlarge")
    assert {zone.zone: zone.counts.tolist() for zone in only.traces} == {A: [1] * 4, B: [1] * 4}
    assert only.metadata[A]["instance_type"] == "g5.xlarge"
    with pytest.raises(TraceError, match=r"no spot launch of h100 yet"):
        record(journal, instance_type="h100")


async def test_a_journal_that_tells_nothing_or_is_none_is_refused(
    store: Store, journal: Path, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match="tells of no spot launch yet"):
        record(journal)
    (tmp_path / "odd.db").write_bytes(b"not a database, but long enough to be looked at as one" * 9)
    with pytest.raises(TraceError, match=r"odd\.db cannot be read"):
        record(tmp_path / "odd.db")
    with pytest.raises(TraceError, match="there is no journal"):
        record(tmp_path / "none.db")


async def test_the_command_reads_a_journal_in_use_and_writes_traces_that_can_be_loaded(
    store: Store, journal: Path, tmp_path: Path
) -> None:
    """The journal stays open and is not changed; a highest count of 1 stays 1."""
    fleet = Fleet(store)
    await fleet.launch(0, A)
    await fleet.refused(2, A)
    await fleet.still(5)
    before = await store.events(limit=1000)
    done = await asyncio.to_thread(
        run, "record", "--state-dir", str(journal.parent), "--out", "mine", "--gap", "30s", "--since", "2h"
    )
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [f"{A}: 100% of the time observed", "Wrote 1 file of 5m to mine."]
    read = load_traces(Path("mine"))
    assert [(zone.zone, zone.gap_s, np.unique(zone.counts).tolist()) for zone in read] == [(A, 30.0, [1])]
    metadata = json.loads((tmp_path / "mine" / "us-east-1a.json").read_text())["metadata"]
    assert (metadata["observed_share"], metadata["instance_type"]) == (1.0, "p3.2xlarge")
    assert await store.events(limit=1000) == before


def test_traces_made_up_for_a_model_file_are_found_by_a_back_test(tmp_path: Path) -> None:
    """Without a network and without a record: one for each zone in which its pools want spot, by its name."""
    model = Path(__file__).parent.parent / "examples" / "backtest.toml"
    out = tmp_path / "made-up"
    write_synthetic(out, like=None, preset_name="calm", days=2, seed=1, zones=None, model_file=model)
    traces = load_traces(out)
    assert {trace.zone.partition("/")[2] for trace in traces} == set(spot_zones(load_spec(model).pools))
    assert model_scenario(load_spec(model), traces, requests=None, ignore_missing_zones=False) is not None
