"""Much that became due at once is done in slices, in order, and none of it within the call that asks for it."""

from collections.abc import Callable

from hedgeserve.proxy.turns import Turns


class Clock:
    """A loop whose time passes when the test, or some work, says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, work: Callable[[], None]) -> None:
        self.due.append((delay_s, work))

    def step(self) -> float:
        delay_s, work = self.due.pop(0)
        work()
        return delay_s


def test_work_is_done_in_order_and_later() -> None:
    """Nothing happens before the loop's next turn."""
    clock, done = Clock(), list[int]()
    turns = Turns(lambda: clock.now_s, clock.call_later)
    for number in range(3):
        turns.soon(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    assert clock.step() == 0
    assert done == [0, 1, 2]
    assert clock.due == []


def test_long_work_makes_room_for_others() -> None:
    """Each piece takes 3 ms: after two of them everybody else has a turn."""
    clock, done = Clock(), list[int]()
    turns = Turns(lambda: clock.now_s, clock.call_later)

    def work(number: int) -> None:
        clock.now_s += 0.003
        done.append(number)

    for number in range(5):
        turns.soon(lambda number=number: work(number))  # type: ignore[misc]
    steps = []
    while clock.due:
        before = len(done)
        clock.step()
        steps.append(len(done) - before)
    assert steps == [2, 2, 1]


def test_work_that_fails_does_not_stop_the_rest() -> None:
    """The loop hears of the error, and what was waiting is done in its turn."""
    clock, done = Clock(), list[int]()
    turns = Turns(lambda: clock.now_s, clock.call_later)
    turns.soon(lambda: 1 // 0)
    turns.soon(lambda: done.append(1))
    try:
        clock.step()
    except ZeroDivisionError:
        clock.step()
    assert done == [1]
