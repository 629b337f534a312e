"""Traces as files, what they are like, and traces that are made up to be like them."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.errors import TraceError
from hedgeserve.replica import ZoneId
from hedgeserve.simulate.synth import PRESETS, fit, preset, synthesize
from hedgeserve.simulate.tracefiles import load_traces, save_traces, zone_of
from hedgeserve.simulate.traceinfo import describe
from hedgeserve.simulate.traces import UNLIMITED, TraceSet, ZoneTrace

DATA = Path(os.environ.get("HEDGESERVE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")) / "spot"


def recorded(name: str) -> TraceSet:
    """A public trace, where this machine has it."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there; set HEDGESERVE_DATA to the folder with the recorded data")
    return load_traces(DATA / name)


def write(folder: Path, name: str, data: Any, gap_seconds: Any = 300, **metadata: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"gap_seconds": gap_seconds, **metadata}, "data": data}))
    return path


def traces(gap_s: float = 60.0, **zones: list[int]) -> TraceSet:
    return TraceSet(
        "made",
        tuple(ZoneTrace(zone_of(zone), gap_s, np.array(counts, np.int64)) for zone, counts in zones.items()),
    )


# Files


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("us-east-1f", "aws/us-east-1/us-east-1f"),
        ("us-gov-west-1a", "aws/us-gov-west-1/us-gov-west-1a"),
        ("us-west-2-lax-1a", "aws/us-west-2/us-west-2-lax-1a"),
        ("us-central1-a", "gcp/us-central1/us-central1-a"),
        ("northamerica-northeast1-b", "gcp/northamerica-northeast1/northamerica-northeast1-b"),
        ("eastus-1", "azure/eastus/eastus-1"),
        ("westus2-3", "azure/westus2/westus2-3"),
        ("basement", "trace/basement/basement"),
    ],
)
def test_a_zone_is_known_by_the_name_that_its_cloud_gives_it(name: str, zone: str) -> None:
    assert zone_of(name) == zone


def test_the_zone_comes_from_the_callers_word_then_the_metadata_then_the_file_name(tmp_path: Path) -> None:
    write(tmp_path, "us-east-1a_a100_40gb_8.json", [2, 0])
    write(tmp_path, "b.json", [2, 0], zone="local/here/b")
    write(tmp_path, "c_v100_1.json", [2, 0], zone="local/here/c")
    read = load_traces(tmp_path, zones={"c": ZoneId("aws/us-east-1/us-east-1c")})
    assert [trace.zone for trace in read] == [
        "local/here/b", "aws/us-east-1/us-east-1c", "aws/us-east-1/us-east-1a"
    ]  # fmt: skip
    assert read.name == tmp_path.name
    assert read.gap_s == 300.0
    assert read.notes == ()


@pytest.mark.parametrize(
    ("ones_are", "highest", "told", "read_as", "noted"),
    [
        ("auto", 1, None, UNLIMITED, True),
        ("auto", 2, None, 1, False),
        ("auto", 1, "one", 1, False),
        ("auto", 1, "unlimited", UNLIMITED, False),
        ("one", 1, None, 1, False),
        ("unlimited", 1, "one", UNLIMITED, False),
        ("auto", 0, None, 0, False),
    ],
)
def test_a_folder_of_zeros_and_ones_says_only_whether_there_was_any(
    tmp_path: Path, ones_are: Any, highest: int, told: str | None, read_as: int, noted: bool
) -> None:
    metadata = {} if told is None else {"ones_are": told}
    write(tmp_path, "a.json", [0, min(highest, 1)], **metadata)
    write(tmp_path, "b.json", [0, highest])
    read = load_traces(tmp_path, ones_are=ones_are)
    assert read.zones[0].counts.tolist() == [0, read_as]
    assert bool(read.notes) is noted


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1, None, 2], "data[1] is a hole"),
        ([1, 2, float("nan")], "data[2] is a hole"),
        ([-1], "data[0] is -1; a zone cannot have fewer than 0"),
        ([1, 3.0], "data[1] is 3.0; write a whole number"),
        ([1, True], "data[1] is true or false"),
        ([1, "2"], "data[1] is '2'"),
        ([1, [2]], "data[1] is '[2]'"),
        ([1, UNLIMITED + 1], f"data[1] is {UNLIMITED + 1}; write {UNLIMITED}"),
        ([1, 10**40], "data[1] is 1000"),
        ([None, 1, None], "(and 1 more like it)"),
        ([], "data is not a list"),
        ({"0": 1}, "data is not a list"),
        ("1", "data is not a list"),
    ],
)
def test_a_count_that_is_none_is_named_with_its_file_and_place(tmp_path: Path, data: Any, says: str) -> None:
    write(tmp_path, "good.json", [1, 2, 3])
    write(tmp_path, "bad.json", data)
    with pytest.raises(TraceError) as raised:
        load_traces(tmp_path)
    assert "bad.json" in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize("gap", [0, -1, "300", None, True, float("nan"), float("inf")])
def test_a_gap_is_a_number_of_seconds(tmp_path: Path, gap: Any) -> None:
    write(tmp_path, "a.json", [1], gap_seconds=gap)
    with pytest.raises(TraceError, match=r"a\.json: metadata\.gap_seconds is "):
        load_traces(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1, 2]", b"null", b'{"data": [1]}', b'{"metadata": {}, "data": [1]}', b"\xff\xfe", b"[" * 9999],
)
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "odd.json").write_bytes(text)
    with pytest.raises(TraceError, match=r"odd\.json is n"):
        load_traces(tmp_path)


@pytest.mark.parametrize(
    "metadata", [{"zone": "us-east-1a"}, {"zone": "a//b"}, {"zone": 3}, {"ones_are": 1}, {"notes": "hm"}]
)
def test_metadata_that_cannot_be_meant_is_named(tmp_path: Path, metadata: dict[str, Any]) -> None:
    write(tmp_path, "a.json", [1], **metadata)
    with pytest.raises(TraceError, match=rf"a\.json: metadata\.{next(iter(metadata))} is "):
        load_traces(tmp_path)


def test_files_that_were_not_recorded_together_are_told_apart(tmp_path: Path) -> None:
    """Two files of one zone, another gap, another length: each is told, in one error."""
    write(tmp_path, "us-east-1a_v100_1.json", [1, 2])
    write(tmp_path, "us-east-1a_v100_8.json", [1, 2])
    write(tmp_path, "us-east-1b.json", [1, 2], gap_seconds=60)
    write(tmp_path, "us-east-1c.json", [1, 2, 3])
    with pytest.raises(TraceError) as raised:
        load_traces(tmp_path)
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "us-east-1a_v100_8.json and us-east-1a_v100_1.json are both of zone aws/us-east-1/us-east-1a; "
        "keep one of them here",
        "us-east-1b.json: gap_seconds is 60, but 300 in 3 of 4 files; bring all to one gap",
        "us-east-1c.json: the number of counts is 3, but 2 in 3 of 4 files; cut all to the time that all have",
    ]


def test_only_the_first_ten_mistakes_are_shown(tmp_path: Path) -> None:
    for number in range(13):
        write(tmp_path, f"z{number:02}.json", [None])
    with pytest.raises(TraceError) as raised:
        load_traces(tmp_path)
    assert str(raised.value).count("is a hole") == 10
    assert str(raised.value).endswith("and 3 more mistakes")


def test_a_folder_that_is_none_or_empty_is_refused_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a trace")
    with pytest.raises(TraceError, match=r"holds no \*\.json file"):
        load_traces(tmp_path)
    with pytest.raises(TraceError, match="is not a folder"):
        load_traces(tmp_path / "notes.txt")
    with pytest.raises(TraceError, match="hedgeserve traces pull"):
        load_traces(tmp_path / "nowhere")


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(
        st.lists(st.integers(0, 5) | st.just(UNLIMITED), min_size=7, max_size=7), min_size=1, max_size=4
    ),
    gap_s=st.sampled_from([0.5, 30.0, 300.0]),
)
def test_what_was_saved_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, counts: list[list[int]], gap_s: float
) -> None:
    folder = tmp_path_factory.mktemp("traces") / "new" / "folder"
    zones = [ZoneId("aws/a/x"), ZoneId("gcp/b/x"), ZoneId("azure/c/y_1"), ZoneId("local/here/z")]
    saved = TraceSet(
        "any",
        tuple(ZoneTrace(zone, gap_s, np.array(n, np.int64)) for zone, n in zip(zones, counts, strict=False)),
        ("made by hand",),
    )
    save_traces(saved, folder)
    read = load_traces(folder)
    assert {trace.zone: trace.counts.tolist() for trace in read} == {
        trace.zone: trace.counts.tolist() for trace in saved
    }
    assert read.gap_s == gap_s
    assert read.notes == ("made by hand",)
    assert read.only([zones[0]]).notes == read.notes


def test_a_record_of_yes_and_no_is_written_as_ones_and_zeros(tmp_path: Path) -> None:
    [path] = save_traces(traces(b=[0, UNLIMITED]), tmp_path)
    assert json.loads(path.read_text())["data"] == [0, 1]
    assert load_traces(tmp_path).zones[0].counts.tolist() == [0, UNLIMITED]


def test_a_folder_with_traces_is_not_written_into(tmp_path: Path) -> None:
    write(tmp_path, "a.json", [1])
    with pytest.raises(TraceError, match=r"already holds a\.json; give a new or empty folder"):
        save_traces(traces(b=[1]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_public_traces_are_what_is_known_of_them() -> None:
    """Zones, length and the share of the time without any spot VM, as the data's own README tells them."""
    for name, zones, counts, nothing, notes in (("aws-1", 3, 3156, 0.0735, 0), ("aws-3", 9, 20158, 0.0079, 1)):
        read = recorded(name)
        assert (len(read.zones), len(read.zones[0].counts), read.gap_s) == (zones, counts, 300.0)
        none = np.mean(np.max([trace.counts for trace in read], axis=0) == 0)
        assert float(none) == pytest.approx(nothing, abs=5e-5)
        assert len(read.notes) == notes


# What they are like


def test_a_record_is_summed_up() -> None:
    """Worked out by hand: spells, drops, shares, correlations."""
    info = describe(
        traces(
            gap_s=3600.0,
            **{
                "us-east-1a": [2, 2, 0, 0, 3, 1, 0, 0],
                "us-east-1b": [1, 1, 0, 0, 1, 1, 0, 0],
                "us-west-2a": [0, 0, 4, 4, 0, 0, 4, 0],
                "us-west-2b": [0] * 8,
            },
        )
    )
    first, second, _, never = info.zones
    assert (first.any_share, first.mean, first.highest) == (0.5, 1.0, 3)
    assert (first.up_spells, first.mean_up_s, first.mean_down_s) == (2, 7200.0, 7200.0)
    assert first.drops_per_day == pytest.approx(3 * 3)  # three falls in a third of a day
    assert first.second_drop_share == pytest.approx(2 / 3)  # 2 -> 0 and 3 -> 1 take two VMs, 1 -> 0 does not
    assert second.second_drop_share is None  # highest count 1: a count is no number of VMs
    assert (never.any_share, never.up_spells, never.mean_up_s, never.mean_down_s) == (0.0, 0, None, 8 * 3600.0)
    assert info.none_share == pytest.approx(1 / 8)
    assert info.same_region_correlation == pytest.approx(1.0)
    assert info.other_region_correlation == pytest.approx(-np.sqrt(3 / 5))
    assert json.dumps(dataclasses.asdict(info))


def test_a_second_drop_counts_if_it_comes_within_five_minutes() -> None:
    """A first drop is one that comes five minutes after no other."""
    info = describe(traces(gap_s=60.0, a=[4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 0]))
    # drops at 0, 5, 11, 18 minutes: the one at 5 follows the one at 0, those at 11 and 18 stand alone
    assert info.second_drop_share == pytest.approx(1 / 3)


def test_zones_that_never_change_have_no_correlation() -> None:
    info = describe(traces(**{"us-east-1a": [1, 2, 1], "us-east-1b": [0, 0, 0], "us-west-2a": [0, 1, 0]}))
    assert (info.same_region_correlation, info.other_region_correlation) == (None, None)


def test_no_number_of_vms_is_told_of_a_record_of_yes_and_no() -> None:
    info = describe(traces(a=[0, UNLIMITED, UNLIMITED, 0]))
    assert (info.zones[0].mean, info.zones[0].highest, info.zones[0].any_share) == (None, None, 0.5)


# Made up


@pytest.mark.parametrize("name", ["aws-1", "aws-3"])
def test_a_long_synthetic_trace_is_like_the_recorded_one(name: str) -> None:
    """Availability and mean spells of each zone, and the time without any spot VM at all."""
    real = recorded(name)
    made = synthesize(fit(real), 1000 * 86400, seed=5)
    for told, zone in zip(describe(real).zones, describe(made).zones, strict=True):
        assert zone.zone == told.zone
        assert zone.any_share == pytest.approx(told.any_share, abs=0.05)
        assert told.mean_up_s is not None
        assert told.mean_down_s is not None
        assert zone.mean_up_s == pytest.approx(told.mean_up_s, rel=0.25)
        assert zone.mean_down_s == pytest.approx(told.mean_down_s, rel=0.25)
        assert zone.drops_per_day == pytest.approx(told.drops_per_day, rel=0.25)
        assert zone.mean == (None if told.mean is None else pytest.approx(told.mean, rel=0.15))
    assert describe(made).none_share == pytest.approx(describe(real).none_share, rel=0.5)
    assert {n for zone in made for n in zone.counts.tolist()} == {n for zone in real for n in zone.counts.tolist()}


def test_what_a_region_suffers_together_is_found() -> None:
    """Two zones that are independent but for the fifth of the time in which both are taken."""
    rng = np.random.default_rng(3)
    outage = np.repeat(rng.random(400) < 0.2, 20)
    zones = {
        name: np.where(outage, 0, np.repeat(rng.random(2000) < 0.8, 4)).astype(np.int64)
        for name in ("us-east-1a", "us-east-1b", "us-west-2a")
    }
    zones["us-west-2a"] = np.repeat(rng.random(2000) < 0.8, 4).astype(np.int64)
    real = traces(gap_s=300.0, **{name: counts.tolist() for name, counts in zones.items()})
    model = fit(real)
    assert [outages.region for outages in model.outages] == ["aws/us-east-1"]
    made = describe(synthesize(model, 300 * 86400, seed=1))
    phi = describe(real).same_region_correlation
    assert phi is not None
    assert made.same_region_correlation == pytest.approx(phi, abs=0.1)


def test_a_model_is_plain_data_and_a_seed_makes_one_trace_only() -> None:
    model = preset("volatile")
    assert json.loads(json.dumps(dataclasses.asdict(model)))["gap_s"] == 60.0
    one, same, other = (synthesize(model, 5 * 86400, seed) for seed in (1, 1, 2))
    assert [zone.counts.tolist() for zone in one] == [zone.counts.tolist() for zone in same]
    assert [zone.counts.tolist() for zone in one] != [zone.counts.tolist() for zone in other]
    assert one.duration_s == 5 * 86400


def test_zones_above_those_of_the_model_have_names_and_luck_of_their_own() -> None:
    few, many = (synthesize(preset("calm"), 5 * 86400, 1, zones=count) for count in (2, 8))
    assert [zone.zone for zone in few] == ["synthetic/east/east-a", "synthetic/west/west-a"]
    assert [zone.zone for zone in many][6:] == ["synthetic/east/east-a-2", "synthetic/west/west-a-2"]
    assert many.zones[0].counts.tolist() == few.zones[0].counts.tolist()
    assert many.zones[6].counts.tolist() != many.zones[0].counts.tolist()


@pytest.mark.parametrize(("name", "low", "high"), [("calm", 0.9, 0.97), ("volatile", 0.5, 0.7)])
def test_presets_are_what_they_are_called(name: str, low: float, high: float) -> None:
    info = describe(synthesize(preset(name), 200 * 86400, seed=2))
    assert all(low < zone.any_share < high for zone in info.zones)
    assert info.same_region_correlation is not None
    assert info.other_region_correlation is not None
    assert info.same_region_correlation > info.other_region_correlation + 0.1
    assert set(PRESETS) == {"calm", "volatile"}


def test_a_trace_of_nothing_is_refused() -> None:
    with pytest.raises(TraceError, match="would be empty"):
        synthesize(preset("calm"), 59, 1)
    with pytest.raises(TraceError, match="would be empty"):
        synthesize(preset("calm"), 3600, 1, zones=0)
    with pytest.raises(TraceError, match="the presets are calm and volatile"):
        preset("stormy")


@settings(max_examples=5, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=24, max_size=24), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_any_record_can_be_fitted_and_nothing_unseen_is_made_up(rows: list[list[int]], seed: int) -> None:
    """Also a zone that never changes, never has any, or is always in an outage."""
    names = ("us-east-1a", "us-east-1b", "us-west-2a")
    real = traces(gap_s=3600.0, **dict(zip(names, rows, strict=False)))
    made = synthesize(fit(real), 20 * 86400, seed)
    for told, zone in zip(real, made, strict=True):
        assert set(zone.counts.tolist()) <= {0, *told.counts.tolist()}
