"""The soak's own judgement: a soak that could not fail would prove nothing."""

import json
from collections import Counter

import pytest

from tests.soaking.answers import Twins
from tests.soaking.kinds import CHAT, QUESTIONS, Question
from tests.soaking.load import Tally
from tests.soaking.report import End, problems
from tests.soaking.watching import Sample, Watched

STREAMED = Question("plain", 0, CHAT, {"stream": True})
IN_ONE_PIECE = Question("in one piece, short", 0, CHAT, {"stream": False})
GOOD = End(exit_status=0, processes=[], vms=[])


def stream(*words: str, last: str = "data: [DONE]\n\n", id: str = "a") -> bytes:
    said = ""
    for number, word in enumerate(words):
        finish = "stop" if number == len(words) - 1 else None
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": finish}
        said += f"data: {json.dumps({'id': id, 'created': 1, 'choices': [choice]})}\n\n"
    return (said + last).encode()


def whole(word: str, id: str) -> bytes:
    choices = [{"index": 0, "message": {"content": word}, "finish_reason": "stop"}]
    answer = {
        "id": id,
        "created": 1,
        "object": "chat.completion",
        "model": "demo",
        "usage": {},
        "choices": choices,
    }
    return json.dumps(answer).encode()


@pytest.fixture
def expected() -> Twins:
    found = Twins()
    found.learn(STREAMED, stream("the ", "fox"))
    found.learn(IN_ONE_PIECE, whole("the fox", "a"))
    return found


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (stream("th", "e f", "ox", id="b"), "whole and equal"),
        (stream("the ", "ox"), "corrupted"),
        (stream("the ", "fox") + stream("!"), "corrupted"),
        (stream("the ") + stream("fox", id="b"), "corrupted"),
        (stream("the ", "fox", last=""), "lost"),
        (b"data: {", "corrupted"),
        (stream("the ", last='data: {"error": {"message": "cut"}}\n\n'), "honest error"),
    ],
)
def test_a_stream_is_what_its_twin_is_or_is_told_apart(expected: Twins, body: bytes, outcome: str) -> None:
    """Chunks may fall otherwise, and ids differ; all that a client reads must be the same."""
    assert expected.judge(STREAMED, body).outcome == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [(whole("the fox", "b"), "whole and equal"), (whole("the ox", "a"), "corrupted"), (b"{", "corrupted")],
)
def test_an_answer_in_one_piece_is_what_its_twin_is(expected: Twins, body: bytes, outcome: str) -> None:
    """All but its id and time."""
    assert expected.judge(IN_ONE_PIECE, body).outcome == outcome


def test_each_question_has_one_twin() -> None:
    """No two of the same kind and variant, or one would be held to the other's answer."""
    assert len({(question.kind, question.variant) for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("outcome", ["lost", "corrupted", "honest error", "refused"])
def test_one_answer_that_is_not_whole_and_equal_fails_the_soak(outcome: str) -> None:
    """However many others were."""
    tally = Tally(asked=10_000, outcomes=Counter({"whole and equal": 9_999, outcome: 1}))
    assert problems(tally, Watched([Sample(80, 5, 50, 100)]), GOOD) == [f"1 × {outcome}"]


def test_what_grows_or_is_left_behind_fails_the_soak() -> None:
    """Memory, tasks, descriptors; processes and VMs; a request of which nothing was heard."""
    growing = Watched([Sample(80 + 5 * n, 5, 50 + 5 * n, 100 + 9 * n) for n in range(9)])
    found = problems(Tally(asked=1), growing, End(exit_status=1, processes=["7: sleep"], vms=["soak-3"]))
    assert [problem.split()[0] for problem in found] == ["1", "exit", "left", "memory", "tasks", "descriptors"]
    assert problems(Tally(), Watched([Sample(80, 5, 50, 100)] * 9), GOOD) == []


def test_a_fleet_that_grows_is_no_leak_and_a_leak_in_one_that_shrinks_is() -> None:
    """Each replica has tasks and descriptors of its own, and how many there are is chance."""
    sizes = [5, 6, 5, 6, 8, 9, 6, 8, 9, 8]
    assert problems(Tally(), Watched([Sample(80, n, 10 * n, 20 * n) for n in sizes]), GOOD) == []
    shrinking = [Sample(80, n, 10 * n + 4 * at, 20 * n + 9 * at) for at, n in enumerate(reversed(sizes))]
    found = problems(Tally(), Watched(shrinking), GOOD)
    assert [problem.split()[0] for problem in found] == ["tasks", "descriptors"]
    for_good = [Sample(80, 5 if at < 5 else 9, 50 + 4 * at, 100) for at in range(10)]
    assert [problem.split()[0] for problem in problems(Tally(), Watched(for_good), GOOD)] == ["tasks"]
