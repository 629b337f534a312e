"""Requests for a simulation: made at random, read from files, cut and scaled."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.simulate.workload import TokenMix, Workload, WorkloadError, poisson, read_requests

DATA = Path(os.environ.get("HEDGESERVE_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data") / "requests"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
MINUTES = "Time (min),Requests\n"

recorded = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded requests under {DATA}; set HEDGESERVE_DATA")


def made(*arrival_s: float, duration_s: float) -> Workload:
    count = len(arrival_s)
    return Workload("made", np.array(arrival_s), np.arange(count) + 1, np.arange(count) + 10, duration_s)


@pytest.fixture
def write(tmp_path):
    def _write(text: str | bytes) -> Path:
        path = tmp_path / "requests.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def test_poisson_has_the_rate_of_all_its_clients_together() -> None:
    """86,400 requests are awaited; the count is within five deviations, the gaps are exponential."""
    load = poisson(1.0, 86400.0, seed=1, clients=3)
    assert abs(len(load) - 86400) < 5 * 294
    gaps = np.diff(load.arrival_s)
    assert gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert set(load.client.tolist()) == {0, 1, 2}
    assert len(np.unique(load.arrival_s)) == len(load)


def test_clients_in_step_send_at_the_same_instants() -> None:
    """Two of three march together: each of their times is there twice."""
    load = poisson(0.3, 20000.0, seed=4, clients=3, in_step=2)
    times = [load.arrival_s[load.client == client].tolist() for client in range(3)]
    assert times[0] == times[1]
    assert times[2] != times[0]


def test_the_same_seed_makes_the_same_requests() -> None:
    """Twice seed 7 is the same; seed 8 is another day."""
    one, two, other = (poisson(0.2, 5000.0, seed) for seed in (7, 7, 8))
    for key in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(one, key), getattr(two, key))
    assert not np.array_equal(one.arrival_s[:5], other.arrival_s[:5])


def test_a_mix_has_its_medians_and_bounds() -> None:
    """100,000 draws: medians within 3 %, nothing out of bounds."""
    mix = TokenMix(prompt_median=500, prompt_max=900, output_median=50, output_max=2000)
    prompts, outputs = mix.draw(100_000, np.random.default_rng(0))
    assert np.median(prompts) == pytest.approx(500, rel=0.03)
    assert np.median(outputs) == pytest.approx(50, rel=0.03)
    assert prompts.min() >= 1
    assert prompts.max() == 900


def test_a_sample_is_drawn_in_pairs() -> None:
    """A mix of a workload gives back its own pairs."""
    mix = TokenMix.of(made(1, 2, 3, duration_s=4))
    prompts, outputs = mix.draw(200, np.random.default_rng(0))
    assert set(zip(prompts.tolist(), outputs.tolist(), strict=True)) == {(1, 10), (2, 11), (3, 12)}


def test_a_workload_cannot_be_changed() -> None:
    """Neither through its own array nor through the one that it was made of."""
    times = np.array([1.0, 2.0])
    load = Workload("x", times, np.array([1, 1]), np.array([1, 1]), 3.0)
    times[0] = 9.0
    assert load.arrival_s[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        load.arrival_s[0] = 5.0


@pytest.mark.parametrize(
    ("times", "tokens", "duration_s", "words"),
    [
        ([2.0, 1.0], [1, 1], 3.0, "back in time; sort"),
        ([1.0, float("nan")], [1, 1], 3.0, "arrival_s must be numbers"),
        ([-1.0, 2.0], [1, 1], 3.0, "arrival_s must be numbers"),
        ([1.0, 2.0], [1, -1], 3.0, "prompt_tokens must be"),
        ([1.0, 2.0], [1], 3.0, "2 arrivals but 1 of prompt_tokens"),
        ([1.0, 2.0], [1, 1], 1.5, "do not hold the last arrival"),
        ([], [], 0.0, "do not hold"),
    ],
)
def test_what_is_no_workload_is_refused(times, tokens, duration_s, words) -> None:
    """Each with what is wrong."""
    with pytest.raises(WorkloadError, match=words):
        Workload("x", np.array(times), np.array(tokens), np.ones(len(times), dtype=int), duration_s)


def test_a_window_begins_anew_past_the_end() -> None:
    """Requests at 1 and 4 of 5 s; from 3 s on for 8 s these are 4, 6, 9 in the old time."""
    cut = made(1, 4, duration_s=5).window(3, 8)
    assert cut.arrival_s.tolist() == [1.0, 3.0, 6.0]
    assert cut.output_tokens.tolist() == [11, 10, 11]
    assert cut.duration_s == 8
    assert made(1, 4, duration_s=5).window(5003, 8).arrival_s.tolist() == [1.0, 3.0, 6.0]


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 100), max_size=8).map(sorted),
    st.floats(0, 500),
    st.floats(0.1, 500),
)
def test_windows_side_by_side_hold_each_request_once(times, start_s, length_s) -> None:
    """Two halves of a window have together what the whole has, in order."""
    load = made(*times, duration_s=101.0)
    whole = load.window(start_s, length_s)
    halves = [load.window(start_s, length_s / 2), load.window(start_s + length_s / 2, length_s / 2)]
    # A request within rounding of a cut may fall on either side of it.
    cuts = [start_s, start_s + length_s / 2, start_s + length_s]
    near = sum(abs((time - cut + 50.5) % 101.0 - 50.5) < 1e-6 for time in times for cut in cuts)
    assert abs(sum(len(half) for half in halves) - len(whole)) <= near
    assert (np.diff(whole.arrival_s) >= 0).all()
    assert ((whole.arrival_s >= 0) & (whole.arrival_s < length_s)).all()


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_scaling_keeps_the_ups_and_downs(factor: float) -> None:
    """A day with a busy second half keeps its halves' shares and its length."""
    times = np.sort(np.concatenate([np.linspace(0, 50, 2000), np.linspace(50.01, 99, 8000)]))
    load = Workload("x", times, np.ones(10000, dtype=int), np.ones(10000, dtype=int), 100.0)
    more = load.scaled(factor, seed=3)
    assert len(more) == pytest.approx(10000 * factor, rel=0.03)
    assert (more.arrival_s < 50).mean() == pytest.approx(0.2, abs=0.02)
    assert more.duration_s == 100.0
    if factor == 1.0:
        assert np.array_equal(more.arrival_s, times)
    else:
        assert len(np.unique(more.arrival_s)) == len(more)


def test_it_describes_itself_in_a_line() -> None:
    """Rate, count, tokens; also with nothing in it."""
    text = str(made(1, 2, 3, 4, duration_s=8).describe())
    assert text.startswith("made: 4 requests in 8 s (0.5/s); P10/P50/P90/P99: prompt 1/2/4/4, answer 10/12/13/13")
    assert str(made(duration_s=8).describe()) == "made: 0 requests in 8 s (0/s)"


def test_the_azure_shape_is_read_to_the_microsecond(write) -> None:
    """Seven decimals, CRLF, a byte order mark, no newline at the end, a zone."""
    load = read_requests(
        write("\ufeff" + AZURE + "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690+00:00,396,109")
    )
    assert load.arrival_s.tolist() == pytest.approx([0.0, 4.314579])
    assert load.prompt_tokens.tolist() == [374, 396]
    assert load.output_tokens.tolist() == [44, 109]
    assert load.duration_s == pytest.approx(2 * 4.314579)


def test_counts_per_minute_are_spread_over_their_minute(write) -> None:
    """40 in minute 0, none in minutes 1 and 2 (one of them missing), 20 in minute 3."""
    load = read_requests(write(MINUTES + "0,400\n1,0\n3,200\n"), scale=10)
    minute = (load.arrival_s // 60).astype(int)
    assert np.bincount(minute).tolist() == [40, 0, 0, 20]
    assert load.duration_s == 240
    assert len(np.unique(load.arrival_s)) == 60


def test_what_is_left_of_a_count_is_a_request_now_and_then(write) -> None:
    """3 requests at a scale of 10, a thousand times, are about 300; the cap cuts."""
    path = write(MINUTES + "".join(f"{minute},3\n" for minute in range(1000)))
    assert 230 < len(read_requests(path, scale=10)) < 370
    assert len(read_requests(path, cap_per_minute=2)) == 2000
    same, other = read_requests(path, scale=10), read_requests(path, scale=10, seed=1)
    assert np.array_equal(same.arrival_s, read_requests(path, scale=10).arrival_s)
    assert not np.array_equal(same.arrival_s[:9], other.arrival_s[:9])


def test_your_own_shape_may_leave_tokens_out(write) -> None:
    """What the file has is taken, in any order of columns; the rest is drawn."""
    load = read_requests(write("Output_Tokens, arrival_s\n7,0\n8,1.5\n\n9,3\n"), tokens=TokenMix(sample=((5, 6),)))
    assert load.arrival_s.tolist() == [0.0, 1.5, 3.0]
    assert load.output_tokens.tolist() == [7, 8, 9]
    assert load.prompt_tokens.tolist() == [5, 5, 5]
    assert load.duration_s == 4.5
    assert read_requests(write("arrival_s\n2\n")).duration_s == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "requests.csv: the file is empty"),
        ("arrival_s,prompt_tokens\n", "a header but no requests"),
        ("time,tokens\n1,2\n", "no requests under the header time, tokens; it must have"),
        ("arrivals\n1\n", 'found "arrivals" for "arrival_s"'),
        ("arrival_s,prompt_token\n1,2\n", 'column "prompt_token" is not known; did you mean "prompt_tokens"'),
        ("arrival_s,arrival_s\n1,2\n", 'row 1: the column "arrival_s" is there twice'),
        ("arrival_s\n1\nsoon\n", 'row 3: arrival_s is "soon"; write a number'),
        ("arrival_s\n1\nnan\n", "row 3: arrival_s is nan; write a number of at least 0"),
        ("arrival_s\n-1\n", "row 2: arrival_s is -1"),
        ("arrival_s\ninf\n", "row 2: arrival_s is inf"),
        ("arrival_s\n2\n1\n", "row 3: arrival_s goes back in time; sort"),
        ("arrival_s,output_tokens\n2,3\n3\n", "row 3: 1 values for 2 columns"),
        ("arrival_s,output_tokens\n2,3.5\n", 'row 2: output_tokens is "3.5"; write a whole number'),
        ("arrival_s,output_tokens\n2,-3\n", "row 2: output_tokens is -3"),
        (AZURE + "yesterday,1,1\n", 'row 2: TIMESTAMP is "yesterday"; write it as 2023'),
        (AZURE + "2023-11-16 18:00:02,1,1\n2023-11-16 18:00:01,1,1\n", "row 3: TIMESTAMP goes back"),
        (AZURE + "2023-11-16 18:00:02,1,x\n", 'row 2: GeneratedTokens is "x"'),
        (AZURE + "2023-11-16 18:00:02,,1\n", 'row 2: ContextTokens is ""'),
        (MINUTES + "0,1\n0,1\n", "row 3: minute 0 comes after minute 0; sort"),
        (MINUTES + "0,-1\n", "row 2: Requests is -1"),
        (MINUTES + "0.5,1\n", 'row 2: Time \\(min\\) is "0.5"'),
        (MINUTES + "0,999999999999\n", "scale them down: every count is divided by 1 now"),
        (b"arrival_s\n1\n\xff\n", "after row .*: not UTF-8 text; save the file as UTF-8"),
        ("arrival_s\n1\n".encode("utf-16"), "not UTF-8 text"),
        ('arrival_s\n"1\n', "not CSV"),
    ],
)
def test_a_bad_file_says_where_and_what_to_do(write, text, words) -> None:
    """File, row, what is wrong, what to write."""
    with pytest.raises(WorkloadError, match=words):
        read_requests(write(text))


def test_what_cannot_be_asked_is_refused(write, tmp_path) -> None:
    """Files that are not there, scales that do not fit, windows and rates of nothing."""
    own = write("arrival_s\n1\n")
    load = made(1, duration_s=2)
    for ask, words in (
        (lambda: read_requests(tmp_path / "none.csv"), "none.csv: cannot be read"),
        (lambda: read_requests(tmp_path), "cannot be read"),
        (lambda: read_requests(own, scale=2), "use Workload.scaled instead"),
        (lambda: read_requests(own, scale=0), "scale of 0"),
        (lambda: read_requests(own, cap_per_minute=0), "cap of 0"),
        (lambda: load.scaled(0), "by 0"),
        (lambda: load.scaled(1e9), "more than 10000000 can be simulated"),
        (lambda: load.window(-1, 5), "start at 0 s or later"),
        (lambda: load.window(0, 0), "last longer"),
        (lambda: load.window(0, 1e12), "shorter window"),
        (lambda: poisson(0, 5, 0), "give numbers above 0"),
        (lambda: poisson(1e9, 5e9, 0), "lower rate"),
        (lambda: poisson(1, 5, 0, clients=2, in_step=3), "3 of 2 clients"),
        (lambda: TokenMix(prompt_median=0), "cannot be drawn from"),
        (lambda: TokenMix(output_sigma=-1), "cannot be drawn from"),
        (lambda: TokenMix.of(made(duration_s=1)), "no requests to take token counts from"),
    ):
        with pytest.raises(WorkloadError, match=words):
            ask()


@recorded
def test_the_recorded_conversations() -> None:
    """19,366 requests in 58 minutes, half of the prompts above 1,020 tokens; the default mix is like them."""
    load = read_requests(DATA / "azure-llm-2023-conv.csv")
    summary = load.describe()
    assert summary.count == 19366
    assert summary.duration_s == pytest.approx(3501.9, abs=0.5)
    assert summary.prompt_tokens[1] == 1020
    assert summary.output_tokens[1] == 129
    mix = poisson(10, 5000, seed=0).describe()
    for mine, theirs in zip(mix.prompt_tokens[1:3], summary.prompt_tokens[1:3], strict=True):
        assert mine == pytest.approx(theirs, rel=0.05)
    for mine, theirs in zip(mix.output_tokens[1:3], summary.output_tokens[1:3], strict=True):
        assert mine == pytest.approx(theirs, rel=0.05)


@recorded
def test_the_recorded_functions() -> None:
    """33.6 days of minutes: at a scale of 10,000 with the paper's cap about 404,000 requests."""
    load = read_requests(DATA / "azure-functions-2019-per-minute.csv", scale=10_000, cap_per_minute=90)
    assert load.duration_s == 48405 * 60
    assert len(load) == pytest.approx(404_000, rel=0.005)
    assert len(load.window(86400 * 40, 86400)) > 1000
