"""Where a service has been, step by step, and what `rollback` means there."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.rollouts import _short
from hedgeserve.trail import BACK, ROLLBACK, Trail


@dataclass(frozen=True)
class Step:
    """One recorded roll-out."""

    from_version: int
    to_version: int
    strategy: str = "rolling"
    state: str = "done"
    why: str = "somebody asked"
    outcome: str = "it failed"


FIRST = Step(0, 1, "first")


@pytest.mark.parametrize(
    ("steps", "path", "taken_back"),
    [
        ([FIRST], [1], []),
        ([FIRST, Step(1, 2), Step(2, 3)], [1, 2, 3], []),
        ([FIRST, Step(1, 2), Step(2, 1, ROLLBACK)], [1], [2]),
        ([FIRST, Step(1, 2), Step(2, 3), Step(3, 2, ROLLBACK), Step(2, 1, ROLLBACK)], [1], [2, 3]),
        ([FIRST, Step(1, 2), Step(2, 3), Step(3, 1, ROLLBACK)], [1], [2, 3]),
        ([FIRST, Step(1, 2), Step(2, 1, ROLLBACK), Step(1, 2)], [1, 2], []),
        ([FIRST, Step(1, 2, state=BACK), Step(2, 1, ROLLBACK)], [1], [2]),
        ([FIRST, Step(1, 2, state="superseded"), Step(1, 3)], [1, 2, 3], []),
        ([FIRST, Step(1, 2), Step(2, 1)], [2, 1], []),
        ([FIRST, Step(1, 2), Step(2, 3, state=BACK), Step(3, 2)], [1, 2], [3]),
        ([Step(7, 8), Step(8, 9)], [7, 8, 9], []),
        ([FIRST, Step(1, 2), Step(2, 1, state="superseded"), Step(1, 2, ROLLBACK)], [1, 2], []),
        ([FIRST, Step(1, 2, state="superseded"), Step(2, 1, ROLLBACK)], [2, 1], []),
        ([FIRST, Step(1, 2, state="superseded"), Step(2, 1, ROLLBACK, "superseded"), Step(1, 2, ROLLBACK)],
         [2], [1]),
    ],
    ids=["the first", "forward", "back", "back twice", "back two steps", "back and again", "by itself", "left",
         "the old file again", "to one that never served", "what was before is forgotten", "returned to by apply",
         "left at once", "left, and then taken back"],
)  # fmt: skip
def test_the_way_that_a_service_has_come(steps: list[Step], path: list[int], taken_back: list[int]) -> None:
    """Going back shortens it; what was taken back is known until somebody asks for it again."""
    trail = Trail.of(steps)
    assert (list(trail.path), sorted(trail.taken_back)) == (path, taken_back)


def test_a_step_back_leads_to_what_was_before_and_never_to_what_was_taken_back() -> None:
    """The nearest first."""
    trail = Trail.of([FIRST, Step(1, 2), Step(2, 3), Step(3, 2, ROLLBACK), Step(2, 4)])
    assert list(trail.before(4)) == [2, 1]
    assert list(trail.before(1)) == []
    assert trail.taken_back == {3: "somebody asked"}


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=20))
def test_whatever_was_done_the_wanted_version_ends_the_path_and_is_not_taken_back(
    walks: list[tuple[int, bool, bool]],
) -> None:
    """No version is on the path twice, and none of it has been taken back."""
    steps, wanted = [FIRST], 1
    for to, back, failed in walks:
        if to == wanted:
            continue
        steps.append(Step(wanted, to, ROLLBACK if back else "rolling"))
        before, wanted = wanted, to
        if failed and not back:
            steps[-1] = Step(before, to, state=BACK)
            steps.append(Step(to, before, ROLLBACK))
            wanted = before
    trail = Trail.of(steps)
    assert trail.path[-1] == wanted
    assert len(set(trail.path)) == len(trail.path)
    assert not set(trail.path) & set(trail.taken_back)


def test_of_what_an_engine_says_at_last_the_end_is_kept() -> None:
    """The line that says what was wrong stands below its traceback; no secret comes with it."""
    said = (
        "the engine exited with status 1; its last words: Traceback (most recent call last): | "
        + " | ".join(f'File "engine.py", line {line}, in step_{line}' for line in range(40))
        + " | ValueError: the model needs 80 GiB, token=sk-1234567890abcdefghijklmnop"
    )
    told = _short(said)
    assert told.startswith("the engine exited with status 1; its last words:")
    assert "ValueError: the model needs 80 GiB" in told
    assert "sk-1234567890" not in told
    assert len(told) <= 250
    assert len(_short("x" * 5000)) <= 250
