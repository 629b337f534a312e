"""Half an answer has lost its replica: what is done about it, and when it is over."""

import json
from typing import Any

from hedgeserve.proxy.failover import FailoverPolicy, Finished, Resume, Stream, Telling, approach
from hedgeserve.proxy.replies import Code
from hedgeserve.proxy.resumption import Anew, CutOff, Elsewhere, Next, Resumption, unsaid_end
from hedgeserve.proxy.routes import FORWARDED
from hedgeserve.proxy.verdict import Dialect

PATH = "/v1/chat/completions"
SAID = "replica a failed"
POLICY = FailoverPolicy()


def event(text: str = "", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    head = {"id": "1", "created": 1, "model": "m", "object": "chat.completion.chunk"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


class Half:
    """An answer of which one stream has brought something."""

    def __init__(self, *events: bytes, policy: FailoverPolicy = POLICY, **fields: Any) -> None:
        asked = {"model": "m", "messages": [], "temperature": 0, "stream": True, **fields}
        body, route = json.dumps(asked).encode(), FORWARDED[PATH]
        way = approach(route, asked, body, policy, dice=lambda: 0.25)
        self.telling = Telling(route, body, way, policy, keep=lambda _: True)
        self.stream: Stream = self.telling.first()
        for each in events:
            self.stream.feed(each)
        self.resumption = Resumption(self.telling, Dialect.CHOICES, collects=way.collect)

    def cut(self, *, may_resume: bool = True, elsewhere: bool = True) -> Next:
        return self.resumption.cut(
            Code.UPSTREAM_ERROR, SAID, self.stream, may_resume=may_resume, elsewhere=elsewhere
        )


def test_another_replica_takes_it_up() -> None:
    """One is claimed first, and then asked for the rest."""
    half = Half(event("one "))
    assert half.cut() == Elsewhere()
    assert isinstance(half.resumption.granted(), Resume)
    assert not half.resumption.calling


def test_what_has_been_resumed_too_often_ends_with_its_last_failure() -> None:
    """And not with a reason of ours."""
    assert Half(event("one ")).cut(may_resume=False) == CutOff(Code.UPSTREAM_ERROR, SAID)


def test_no_other_version_of_the_model_goes_on_with_it() -> None:
    """It would have found other words."""
    step = Half(event("one ")).cut(elsewhere=False)
    assert isinstance(step, CutOff)
    assert step.why.endswith("cannot be continued: no other replica runs the version that began it")


def test_what_cannot_be_continued_says_why() -> None:
    """After what has happened."""
    step = Half(event("one "), policy=FailoverPolicy(enabled=False)).cut()
    assert isinstance(step, CutOff)
    assert step.why == f"{SAID}; it cannot be continued: failover is switched off"


def test_a_refusal_to_go_on_is_the_end_of_it() -> None:
    """No way was left."""
    half = Half(event("one "))
    half.cut()
    half.resumption.granted()
    step = half.resumption.got(404, b"")
    while isinstance(step, Resume):
        step = half.resumption.got(404, b"")
    assert isinstance(step, CutOff)


def test_of_an_answer_that_was_complete_only_the_end_is_said() -> None:
    """Whatever else stands in the way: no replica is needed for it."""
    for may_resume, elsewhere in ((True, True), (False, True), (True, False)):
        step = Half(event("one "), event("", "stop")).cut(may_resume=may_resume, elsewhere=elsewhere)
        assert isinstance(step, Finished)
        assert step.payload.endswith(b"data: [DONE]\n\n")


def test_an_answer_that_is_collected_can_be_begun_anew() -> None:
    """Nothing of it has been told."""
    half = Half(event("one "), stream=False, max_tokens=4096)
    assert half.cut(elsewhere=False) == Anew()


def test_what_a_stream_without_its_last_word_has_left_unsaid() -> None:
    """Clients of this dialect wait for it; others have an end of their own."""
    half = Half(event("one "), event("", "stop"))
    assert unsaid_end(half.telling, Dialect.CHOICES) is not None
    assert unsaid_end(half.telling, Dialect.MESSAGES) is None
