"""First bytes come first: who is held in a crowd, for how long, and that nobody is forgotten."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.crowd import Crowd

LONGEST_S = 0.2
LET_GO_AT_ONCE = 64


class Lying:
    """A stream; tells whether it is held, and since when."""

    def __init__(self, clock: "Clock") -> None:
        self._clock = clock
        self.held = False
        self.since_s = 0.0
        self.longest_s = 0.0

    def hold(self) -> None:
        assert not self.held
        self.held, self.since_s = True, self._clock.now_s

    def let_go(self) -> None:
        assert self.held
        self.held = False
        self.longest_s = max(self.longest_s, self._clock.now_s - self.since_s)


class Clock:
    """A loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.crowd = Crowd(lambda: self.now_s, self.call_later)

    def call_later(self, delay_s: float, work: Callable[[], None]) -> None:
        self.due.append((self.now_s + delay_s, work))

    def pass_s(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.due and min(due_s for due_s, _ in self.due) <= until_s:
            at = min(range(len(self.due)), key=lambda one: self.due[one][0])
            due_s, work = self.due.pop(at)
            self.now_s = max(self.now_s, due_s)
            work()
        self.now_s = until_s

    def crowded(self) -> None:
        """A thousand come within a tenth of a second."""
        for _ in range(1000):
            self.crowd.came()
            self.now_s += 0.0001

    def begin(self) -> Lying:
        stream = Lying(self)
        self.crowd.begun(stream)
        return stream


def test_a_stream_that_begins_alone_is_never_held() -> None:
    """Nor one among a few."""
    clock = Clock()
    for _ in range(100):
        clock.crowd.came()
        clock.pass_s(0.002)
        assert not clock.begin().held
    assert clock.due == []


def test_in_a_crowd_streams_rest_after_their_first_token() -> None:
    """Until nobody comes any more."""
    clock = Clock()
    clock.crowded()
    streams = [clock.begin() for _ in range(10)]
    assert all(one.held for one in streams)
    clock.pass_s(0.02)
    assert not any(one.held for one in streams)
    clock.pass_s(0.02)
    assert clock.due == []


def test_nobody_rests_for_more_than_a_fifth_of_a_second() -> None:
    """However long the crowd goes on."""
    clock = Clock()
    clock.crowded()
    stream = clock.begin()
    for _ in range(4000):
        clock.crowd.came()
        clock.pass_s(0.0001)
    assert not stream.held
    assert LONGEST_S <= stream.longest_s <= LONGEST_S + 0.005


def test_they_are_let_go_some_at_a_time() -> None:
    """What they have missed comes at once, and others' tokens are not to wait for all of it."""
    clock = Clock()
    clock.crowded()
    streams = [clock.begin() for _ in range(3 * LET_GO_AT_ONCE)]
    counts = []
    clock.now_s += 0.02
    while clock.due:
        before = sum(one.held for one in streams)
        _, work = clock.due.pop()
        work()
        counts.append(before - sum(one.held for one in streams))
        clock.now_s += 0.005
    assert [count for count in counts if count] == [LET_GO_AT_ONCE] * 3


@given(st.lists(st.tuples(st.sampled_from(["came", "begun", "pass"]), st.integers(1, 120)), max_size=60))
def test_whatever_happens_everybody_goes_on(steps: list[tuple[str, int]]) -> None:
    """And no clock is left running."""
    clock = Clock()
    streams = []
    for what, count in steps:
        if what == "pass":
            clock.pass_s(count / 1000)
            continue
        for _ in range(count):
            if what == "came":
                clock.crowd.came()
            else:
                streams.append(clock.begin())
    clock.pass_s(LONGEST_S + 0.005 * (2 + len(streams) // LET_GO_AT_ONCE))
    assert not any(one.held for one in streams)
    assert clock.due == []
