"""The policy of a running service is the one of the simulator: replayed and simulated, its record is the same.

One service for each policy lives through a script of capacities on the local cloud: a refused launch, a fallback
to on-demand and back, and a preemption with a notice. What it was told and decided is in its transcript.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgeserve.cli import main
from hedgeserve.hedge import Drain, Launch, NewsKind, Observation, Plan, Rule, Terminate, ZoneNews, make_policy
from hedgeserve.replica import GoneReason, Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.replaying import replay_transcript
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from hedgeserve.transcript.entries import Decoder, Encoder, Entry, Planned, Started
from hedgeserve.transcript.reader import read_transcript
from tests.recorded import Recording, hedge_of, live_decisions, record, simulated_decisions, world_of

POLICIES = ("spothedge", "forecast")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Recording]:
    """Both services, at the same time."""
    directory = tmp_path_factory.mktemp("transcripts")

    async def both() -> list[Recording]:
        return await asyncio.gather(*(record(policy, directory / f"{policy}.jsonl") for policy in POLICIES))

    return dict(zip(POLICIES, asyncio.run(both()), strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fresh_policy_that_is_told_the_same_decides_the_same(
    recordings: Mapping[str, Recording], policy: str
) -> None:
    """Every plan of the service, with its sentences, its notes and the time at which it would be asked again."""
    report = replay_transcript(recordings[policy].path)
    assert report.differences == ()
    assert report.same == report.plans > 10
    assert (report.recorded, report.replayed, report.runs) == ((policy,), (policy,), 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_script_holds_grants_a_refusal_and_a_notice(recordings: Mapping[str, Recording], policy: str) -> None:
    """Or the other tests would prove little."""
    told = {entry.kind for entry in read_transcript(recordings[policy].path) if isinstance(entry, ZoneNews)}
    assert {NewsKind.GRANTED, NewsKind.READY, NewsKind.NO_CAPACITY, NewsKind.NOTICE} <= told


def test_the_script_leads_spothedge_to_on_demand_and_back_twice(recordings: Mapping[str, Recording]) -> None:
    """Once while the first spot replicas start, once while a preempted one is replaced."""
    assert [told[:1] + told[3:] for told in live_decisions(recordings["spothedge"])] == [
        ("launch", Rule.SPREAD),
        ("launch", Rule.SPREAD),
        ("launch", Rule.FALLBACK),
        ("launch", Rule.SPREAD),
        ("drain", Rule.BACK_TO_SPOT),
        ("launch", Rule.FALLBACK),
        ("launch", Rule.SPREAD),
        ("drain", Rule.NOTICE),
        ("drain", Rule.BACK_TO_SPOT),
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_in_a_simulated_world_of_the_same_script_the_policy_does_what_it_did_live(
    recordings: Mapping[str, Recording], policy: str
) -> None:
    """What, where, in which market and by which rule, in the same order, nothing more and nothing less."""
    recording = recordings[policy]
    outcome = run(make_policy(hedge_of(recording)), world_of(recording))
    assert simulated_decisions(outcome) == live_decisions(recording)


# The verb


def replayed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def test_replay_says_that_all_plans_came_out_the_same(recordings: Mapping[str, Recording]) -> None:
    """Exit code 0, one line."""
    result = replayed(recordings["spothedge"].path)
    assert (result.exit_code, result.stderr) == (0, "")
    plans = replay_transcript(recordings["spothedge"].path).plans
    assert f"all {plans} came out the same (spothedge)." in result.stdout


def test_replay_shows_what_other_settings_would_have_done(recordings: Mapping[str, Recording]) -> None:
    """Without a spare, SpotHedge would not have asked the second zone in its first plan; this is no failure."""
    result = replayed(recordings["spothedge"].path, "--overprovision", "0", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["other_settings"]
    assert report["same"] < report["plans"]
    first = report["differences"][0]
    assert first["plan"] == 1
    assert "launch spot in local/east/b" in first["recorded"]
    assert "launch spot in local/east/b" not in first["replayed"]
    other = replayed(recordings["spothedge"].path, "--policy", "forecast")
    assert other.exit_code == 0
    assert "forecast would have done the same at" in other.stdout
    assert "replayed" in other.stdout


def test_a_record_of_other_decisions_is_shown_with_the_first_difference(
    recordings: Mapping[str, Recording], tmp_path: Path
) -> None:
    """Exit code 1: after an update, say, that decides otherwise."""
    text = recordings["spothedge"].path.read_text()
    changed = tmp_path / "changed.jsonl"
    changed.write_text(text.replace('"spot_wanted":2', '"spot_wanted":3', 1))
    result = replayed(changed, "--json")
    assert result.exit_code == 1
    [difference] = json.loads(result.stdout)["differences"]
    assert (difference["recorded"], difference["replayed"]) == ("3 spot replicas wanted", "2 spot replicas wanted")
    assert "1 came out otherwise" in replayed(changed).stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("not json\n", ":1: this is no line of a transcript"),
        ('{"line":"offer","n":0}\n', ":1: this line cannot be read as one of a transcript"),
        ('{"line":"start","format":2}\n', "of the format 2"),
    ],
)
def test_what_is_no_transcript_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    """Exit code 1 and a sentence."""
    path = tmp_path / "some.jsonl"
    path.write_text(text)
    result = replayed(path)
    assert result.exit_code == 1
    assert told in result.stderr


def test_a_transcript_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its name."""
    assert f"the transcript {tmp_path}/none.jsonl cannot be read" in replayed(tmp_path / "none.jsonl").stderr


# Lines, and back

texts = st.text(max_size=8)
times = st.floats(allow_nan=False, allow_infinity=False)
zones = st.builds(ZoneId, texts)
replica_ids = st.builds(ReplicaId, texts)
moments = st.datetimes(timezones=st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes))))
offers = st.builds(Offer, zones, texts, st.sampled_from(Market), times, moments)
rules, reasons = st.sampled_from(Rule), st.sampled_from(GoneReason)
all_news = st.builds(
    ZoneNews,
    zones,
    st.sampled_from(Market),
    st.sampled_from(NewsKind),
    times,
    texts,
    st.none() | times,
    st.none() | times,
)
all_replicas = st.builds(
    Replica,
    id=replica_ids,
    offer=offers,
    state=st.sampled_from(State),
    since_s=times,
    created_at=moments,
    why=texts,
    vm_id=st.none() | texts,
    url=st.none(),
    ready_since_s=st.none() | times,
    notice=st.none() | st.builds(Notice, times, texts),
    gone=st.none() | reasons,
)
actions = (
    st.builds(Launch, offers, rules, texts)
    | st.builds(Drain, replica_ids, rules, texts, reasons, st.none() | times)
    | st.builds(Terminate, replica_ids, rules, texts, reasons)
)
plans = st.builds(
    Plan,
    target=st.integers(0, 9),
    spot_wanted=st.integers(0, 9),
    on_demand_wanted=st.integers(0, 9),
    actions=st.lists(actions, max_size=3).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
    again_at_s=st.none() | times,
)
hedges = st.builds(
    HedgeSpec.model_construct,
    policy=st.sampled_from(POLICIES),
    availability=st.floats(0.5, 0.9999),
    overprovision=st.integers(0, 100),
    fallback=st.booleans(),
    on_demand_hold=st.floats(0, 1e9),
    retry_delay=st.floats(1e-9, 1e9),
    notice_lead=st.none() | st.floats(0, 1e9),
)
memories = st.none() | st.dictionaries(texts, st.lists(times | texts | st.none(), max_size=2), max_size=2)
starts = st.builds(Started, at=moments, version=texts, hedge=hedges, memory=memories, memory_at_s=times)


@st.composite
def transcripts(draw: st.DrawFn) -> list[Entry]:
    """Runs of a few offers, which come and go, and are looked at again and again."""
    entries: list[Entry] = []
    for _ in range(draw(st.integers(1, 2))):
        known = st.sampled_from(draw(st.lists(offers, min_size=1, max_size=3)))
        entries.append(draw(starts))
        for _ in range(draw(st.integers(0, 4))):
            if draw(st.booleans()):
                entries.append(draw(all_news))
                continue
            there = tuple(replace(one, offer=draw(known)) for one in draw(st.lists(all_replicas, max_size=2)))
            seen = Observation(
                draw(times), draw(st.integers(0, 9)), there, tuple(draw(st.lists(known, max_size=3)))
            )
            entries.append(Planned(seen, draw(plans)))
    return entries


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(transcripts())
def test_every_entry_comes_back_from_its_lines_as_it_was(entries: list[Entry]) -> None:
    """Every digit of every time, every sentence, every enumeration, and the offers though they are named once."""
    encoder, decoder = Encoder(), Decoder()
    lines = [line for entry in entries for line in encoder.lines(entry)]
    assert not any("\n" in line for line in lines)
    assert [entry for line in lines if (entry := decoder.entry(json.loads(line))) is not None] == entries


def an_offer(zone: str, read_at: datetime) -> Offer:
    return Offer(ZoneId(zone), "small", Market.SPOT, 0.3, read_at)


def test_an_offer_is_written_once_and_the_url_of_a_replica_never() -> None:
    """A line names what lines before it have told."""
    now = datetime.fromisoformat("2026-01-31T12:00:00+00:00")
    offer = an_offer("a/b", now)
    serving = Replica(ReplicaId("m-1"), offer, State.READY, 1.0, now, url="http://10.0.0.5:8000")
    planned = Planned(Observation(1.0, 1, (serving,), (offer,)), Plan(1, 1, 0))
    encoder = Encoder()
    first, second = encoder.lines(planned), encoder.lines(planned)
    assert [json.loads(line)["line"] for line in first] == ["offer", "plan"]
    assert [json.loads(line)["line"] for line in second] == ["plan"]
    assert "offers" not in json.loads(second[0])
    assert "10.0.0.5" not in "".join(first + second)
