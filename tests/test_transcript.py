"""Writing a transcript: beside the service, whole lines, and never in anybody's way."""

import asyncio
import json
import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.core import Service
from hedgeserve.errors import TranscriptError
from hedgeserve.hedge import NewsKind, Observation, Plan, ZoneNews, make_policy
from hedgeserve.replica import ZoneId
from hedgeserve.simulate.replaying import replay_transcript
from hedgeserve.spec import HedgeSpec
from hedgeserve.transcript import writer as writer_module
from hedgeserve.transcript.entries import Encoder, Entry, Planned, Started
from hedgeserve.transcript.reader import read_transcript
from hedgeserve.transcript.writer import TranscriptWriter
from tests.conftest import eventually, messages, small_spec
from tests.zoneworld import SPOT, A, B, offers, replica, tell

HEDGE = HedgeSpec.model_validate({"retry_delay": "1.2345678s"})
NEWS = ZoneNews(ZoneId("local/east/a"), SPOT, NewsKind.GRANTED, 1.5, "a launch was granted")
SEEN = Observation(2.0, 1, (replica(1, A),), offers(A))
PLAN = Plan(1, 1, 0, again_at_s=9.0)


def kinds(path: Path) -> list[type[Entry]]:
    return [type(entry) for entry in read_transcript(path)]


async def test_what_was_told_is_in_the_file_when_it_is_left(tmp_path: Path) -> None:
    """Start, news, plan, as they were; readable by its owner alone."""
    path = tmp_path / "decisions.jsonl"
    async with await TranscriptWriter.open(path) as transcript:
        transcript.started(HEDGE, {"moves": []}, 0.5)
        transcript.heard(NEWS)
        transcript.planned(SEEN, PLAN)
    begun, *others = read_transcript(path)
    assert isinstance(begun, Started)
    assert (begun.hedge, begun.memory, begun.memory_at_s) == (HEDGE, {"moves": []}, 0.5)
    assert others == [NEWS, Planned(SEEN, PLAN)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert transcript.trouble == ""


async def test_a_replay_knows_what_the_service_knew_of_earlier_runs(tmp_path: Path) -> None:
    """A zone that refused before the restart is left out, and only the recorded memory tells so."""
    before, after, ignorant = make_policy(HEDGE), make_policy(HEDGE), make_policy(HEDGE)
    tell(before, A, NewsKind.NO_CAPACITY, at_s=1000.0)
    memory = before.export_memory(1000.2)
    after.restore_memory(memory, 50.0)
    seen = Observation(50.1, 1, (), offers(A, B))
    assert after.plan(seen) != ignorant.plan(seen)
    path = tmp_path / "decisions.jsonl"
    async with await TranscriptWriter.open(path) as transcript:
        transcript.started(HEDGE, memory, 50.0)
        transcript.planned(seen, after.plan(seen))
    report = replay_transcript(path)
    assert (report.plans, report.same) == (1, 1)


async def test_a_plan_is_written_where_it_or_what_it_is_made_of_has_changed(tmp_path: Path) -> None:
    """Neither the time nor prices that were read again and are the same make a line; a new price does."""
    path = tmp_path / "decisions.jsonl"
    read_again = tuple(replace(one, read_at=one.read_at + timedelta(minutes=1)) for one in SEEN.offers)
    dearer = tuple(replace(one, usd_per_hour=one.usd_per_hour + 1) for one in SEEN.offers)
    changes: list[dict[str, Any]] = [{}, {}, {"offers": read_again}, {"offers": dearer}, {"target": 2}]
    async with await TranscriptWriter.open(path) as transcript:
        transcript.started(HEDGE, None, 0.0)
        for now_s, change in enumerate(changes):
            transcript.planned(replace(SEEN, now_s=float(now_s), **change), PLAN)
        transcript.planned(replace(SEEN, target=2), replace(PLAN, notes=("a zone rests",)))
    written = [entry.observation.now_s for entry in read_transcript(path) if isinstance(entry, Planned)]
    assert written == [0.0, 3.0, 4.0, 2.0]


async def test_a_file_that_is_there_is_added_to_even_where_a_crash_cut_its_last_line(tmp_path: Path) -> None:
    """Both runs can be read; the half line is passed over."""
    path = tmp_path / "decisions.jsonl"
    for run in range(2):
        async with await TranscriptWriter.open(path) as transcript:
            transcript.started(HEDGE, None, 0.0)
            transcript.heard(NEWS)
        if run == 0:
            with path.open("a") as file:
                file.write('{"line":"ne')
    assert kinds(path) == [Started, ZoneNews, Started, ZoneNews]
    assert replay_transcript(path).runs == 2


async def test_a_line_that_is_damaged_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """What follows it would be replayed with something missing."""
    path = tmp_path / "decisions.jsonl"
    async with await TranscriptWriter.open(path) as transcript:
        transcript.started(HEDGE, None, 0.0)
        transcript.heard(NEWS)
        transcript.heard(NEWS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]))
    with pytest.raises(TranscriptError, match=r"jsonl:2: this is no line of a transcript"):
        kinds(path)


async def test_a_file_that_cannot_be_written_is_told_before_anything_starts(
    tmp_path: Path, short_dir: Path
) -> None:
    """No address is taken, no VM is launched."""
    with pytest.raises(TranscriptError, match="cannot be written: Is a directory"):
        async with Service(small_spec(short_dir), environ={}, transcript=tmp_path):
            raise AssertionError("it started")
    assert not (short_dir / "state" / "admin.sock").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
async def test_a_full_disk_ends_the_transcript_and_not_the_service(short_dir: Path) -> None:
    """The status says it in one sentence, and the fleet comes up."""
    async with Service(small_spec(short_dir), environ={}, transcript=Path("/dev/full")) as service:
        trouble = await eventually(lambda: service.status()["trouble"])
        assert trouble == ["the transcript /dev/full has ended before its time: No space left on device"]
        await service.wait_ready()
        assert await messages(service, "launch")


async def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the queue ends the transcript; what was written before is a whole record."""
    monkeypatch.setattr(writer_module, "_MOST_WAITING", 3)
    monkeypatch.setattr(writer_module, "_CLOSE_LIMIT_S", 0.05)
    path, hanging = tmp_path / "decisions.jsonl", threading.Event()
    lines = Encoder.lines

    def slow(self: Any, entry: Entry) -> list[str]:
        hanging.wait()
        return lines(self, entry)

    monkeypatch.setattr(Encoder, "lines", slow)
    async with await TranscriptWriter.open(path) as transcript:
        transcript.started(HEDGE, None, 0.0)
        for _ in range(10):
            transcript.heard(NEWS)
        assert "its disk is too slow" in transcript.trouble
    hanging.set()
    await asyncio.to_thread(transcript._thread.join)
    assert kinds(path)[0] is Started
    assert set(kinds(path)[1:]) == {ZoneNews}
    assert json.loads(path.read_text().splitlines()[0])["line"] == "start"
