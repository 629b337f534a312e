"""Answers that lose their replica anywhere in them: the client cannot tell."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedgeserve.proxy.boundary import Boundary
from hedgeserve.proxy.failover import (
    Approach,
    Call,
    FailoverPolicy,
    Finished,
    GiveUp,
    Resume,
    Stream,
    Telling,
    Way,
    approach,
)
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.resumed import Resumed
from hedgeserve.proxy.routes import FORWARDED
from hedgeserve.proxy.wrapping import Wrapping
from tests.smallmodel import CONTEXT, SmallModel, decode, encode

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
POLICY = FailoverPolicy()


def request(prompt: str | list[int] = "Say", *, chat: bool = True, **more: Any) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Any] = {"model": "small", "temperature": 0, "stream": True}
    if chat:
        return CHAT, {**fields, "messages": [{"role": "user", "content": prompt}], **more}
    return COMPLETIONS, {**fields, "prompt": prompt, **more}


@dataclass
class Client:
    """What a client makes of a stream."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: list[tuple[str, Any]] = field(default_factory=list)
    usage: Any = None
    heads: set[tuple[str, int, str, str]] = field(default_factory=set)
    roles: int = 0
    done: int = 0
    prompts: int = 0
    fingerprints: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, stream: bytes) -> "Client":
        client = cls()
        assert not stream or stream.endswith(b"\n\n")
        for event in stream.split(b"\n\n")[:-1]:
            data = event.removeprefix(b"data: ")
            assert not client.done, "something comes after [DONE]"
            if data == b"[DONE]":
                client.done += 1
                continue
            client._take(json.loads(data))
        return client

    def must_equal(self, whole: "Client") -> None:
        """All but the id and time, and the fingerprint where the end had to be said by us."""
        assert len(self.heads) == 1
        assert self.fingerprints <= whole.fingerprints
        assert replace(self, heads=whole.heads, fingerprints=whole.fingerprints) == whole

    def _take(self, event: dict[str, Any]) -> None:
        self.heads.add((event["id"], event["created"], event["model"], event["object"]))
        self.usage = event.get("usage") or self.usage
        self.prompts += bool(event.get("prompt_token_ids"))
        if event.get("system_fingerprint"):
            self.fingerprints.add(event["system_fingerprint"])
        for choice in event["choices"]:
            delta = choice.get("delta")
            self.roles += delta is not None and "role" in delta
            self.text += choice["text"] if delta is None else delta.get("content", "")
            self.ids += choice.get("token_ids") or []
            self.prompts += bool(choice.get("prompt_token_ids"))
            if choice["finish_reason"]:
                self.finish.append((choice["finish_reason"], choice.get("stop_reason")))


@dataclass
class Told:
    """What became of one telling."""

    out: bytes
    telling: Telling
    way: Approach
    gave_up: str = ""
    calls: int = 0

    @property
    def client(self) -> Client:
        return Client.of(self.out)


IN_DOUBT = "its token ids and its text do not match beyond doubt"


def is_honest(told: Told, *, weird: bool) -> bool:
    """Whether an answer of odd bytes ended with the error that says so, and without a false finish."""
    return weird and told.gave_up == IN_DOUBT and not told.client.finish


def tell(
    model: SmallModel,
    path: str,
    fields: dict[str, Any],
    cuts: Iterable[int] = (),
    *,
    policy: FailoverPolicy = POLICY,
    slices: Callable[[bytes], list[bytes]] = lambda data: [data],
    keep: Callable[[int], bool] = lambda _: True,
    detokenize: bool = True,
) -> Told:
    """Play the balancer: each attempt is cut after so many events, the last one is not."""
    body = json.dumps(fields).encode()
    route = FORWARDED[path]
    way = approach(route, fields, body, policy, dice=lambda: 0.25)
    telling = Telling(route, body, way, policy, keep=keep)
    told = Told(b"", telling, way)
    remaining = list(cuts)

    def play(stream: Stream, events: Sequence[bytes]) -> bool:
        cut = remaining.pop(0) if remaining else None
        for piece in slices(b"".join(events if cut is None else events[:cut])):
            told.out += stream.feed(piece)
        if cut is None:
            told.out += stream.close()
        return stream.complete and stream.done and not stream.failure

    if play(telling.first(), model.answer(path, way.body)):
        return told
    for _ in range(20):
        if not telling.begun and not way.collect:
            if play(telling.first(), model.answer(path, way.body)):
                return told
            continue
        recovery = telling.recover()
        if isinstance(recovery, GiveUp):
            told.gave_up = recovery.why
            return told
        step = recovery.start()
        while isinstance(step, Call):
            told.calls += 1
            reply = model.reply(step.path, step.body)
            step = recovery.got(200, reply) if detokenize else recovery.got(404, b"")
        if isinstance(step, GiveUp):
            told.gave_up = step.why
            return told
        if isinstance(step, Finished):
            told.out += step.payload
            return told
        assert isinstance(step, Resume)
        if play(step.stream, model.answer(step.path, step.body)):
            return told
    raise AssertionError("no end")


REQUESTS = [
    request("Hi"),
    request("Rocket", max_tokens=33),
    request("日本", max_completion_tokens=20, max_tokens=5),
    request("Hi", chat=False, max_tokens=50),
    request("Other", chat=False),
    request(encode("by ids"), chat=False, max_tokens=30),
    request("usage", stream_options={"include_usage": True}),
    request("running usage", stream_options={"include_usage": True, "continuous_usage_stats": True}),
    request("running", chat=False, max_tokens=30, stream_options={"include_usage": True}),
    request("ids", return_token_ids=True, stream_options={"include_usage": True}),
    request("ids", chat=False, return_token_ids=True, max_tokens=40),
    request("least", min_tokens=25, max_tokens=45),
    request("truncated", chat=False, truncate_prompt_tokens=4, max_tokens=30),
    request(encode("half 🚀")[:-2], chat=False, max_tokens=30),
    *(
        request(prompt, chat=chat, stop=stop, include_stop_str_in_output=kept, max_tokens=60, return_token_ids=ids)
        for prompt, chat, stop, kept, ids in [
            ("one", True, ["moon"], False, False),
            ("two", True, ["stop", "fox fox fox fox fox"], False, True),
            ("three", False, "e.", False, False),
            ("four", False, ["the of", "\n\n", "a:"], True, False),
            ("five", True, ["=====", "ad"], True, True),
            ("six", True, ["海"], False, False),
        ]
    ),
]


def sizes(seed: int) -> Callable[[], int]:
    dice = random.Random(seed)
    return lambda: dice.choice((1, 1, 1, 2, 3, 7))


@pytest.mark.parametrize("weird", [False, True])
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_a_cut_anywhere_leaves_no_trace(number: int, chunks: int, weird: bool) -> None:
    """Text, ids, sums and finish are those of the answer that was not cut, under one id, with one role and end."""
    path, fields = REQUESTS[number]

    def grain() -> Callable[[], int]:
        return sizes(chunks) if chunks else lambda: 1

    model = SmallModel(weird=weird, sizes=grain())
    events = model.answer(path, json.dumps(fields).encode())
    whole = Client.of(b"".join(events))
    for cut in range(len(events)):
        model.sizes = grain()
        told = tell(model, path, fields, [cut])
        assert told.gave_up == "", cut
        assert told.way.way is Way.CONTINUE
        told.client.must_equal(whole)
    assert {asked for asked, _ in model.asked} <= {path, COMPLETIONS, "/tokenize", "/detokenize"}


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_an_answer_that_is_not_cut_passes_byte_for_byte(number: int) -> None:
    """As if nothing had been asked for beside it: ids that we wanted are nulls again."""
    path, fields = REQUESTS[number]
    expected = SmallModel(sizes=sizes(3)).answer(path, json.dumps(fields).encode())
    told = tell(SmallModel(sizes=sizes(3)), path, fields)
    assert told.out == b"".join(expected)
    assert told.telling.told_tokens > 0


REPEATED = [
    request("seed", temperature=1, seed=7, stream_options={"include_usage": True}),
    request("seed", temperature=1, seed=7, return_token_ids=True, chat=False, max_tokens=40),
    request("penalty", presence_penalty=1.0, max_tokens=30, chat=False),
    request("ids", temperature=1, return_token_ids=True, max_tokens=50),
    request("format", response_format={"type": "json_object"}),
]


@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize("number", range(len(REPEATED)))
def test_a_repeated_answer_is_joined_where_the_first_one_was_cut(number: int, chunks: int) -> None:
    """What has a state beside its ids is asked for from its start, and what was told is swallowed."""
    path, fields = REPEATED[number]
    model = SmallModel(sizes=sizes(chunks) if chunks else lambda: 1)
    uncut = tell(model, path, fields)
    whole = uncut.client
    for cut in range(len(uncut.out.split(b"\n\n")) - 1):
        told = tell(model, path, fields, [cut])
        assert told.gave_up == ""
        assert told.way.way is Way.REPLAY
        told.client.must_equal(whole)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(REQUESTS + REPEATED),
    st.lists(st.integers(0, 25), max_size=5),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
def test_an_answer_may_be_cut_again_and_again(
    asked: tuple[str, dict[str, Any]], cuts: list[int], grain: int, weird: bool, detokenize: bool
) -> None:
    """A continuation is cut too, and its continuation; some replicas have no ``/detokenize``: it is repeated."""
    path, fields = asked
    model = SmallModel(weird=weird, sizes=sizes(grain))
    told = tell(model, path, fields, cuts, detokenize=detokenize)
    assert told.gave_up == ""
    told.client.must_equal(tell(model, path, fields).client)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(REQUESTS + REPEATED), st.integers(0, 40), st.lists(st.integers(1, 400), min_size=1))
def test_however_the_bytes_are_cut_the_result_is_the_same(
    asked: tuple[str, dict[str, Any]], cut: int, lengths: list[int]
) -> None:
    """One payload for all, an event each, or pieces that end anywhere, inside of characters too."""
    path, fields = asked

    def slices(data: bytes) -> list[bytes]:
        pieces = []
        while data:
            for length in lengths:
                pieces.append(data[:length])
                data = data[length:]
        return pieces

    one = tell(SmallModel(), path, fields, [cut])
    other = tell(SmallModel(), path, fields, [cut], slices=slices)
    by_event = tell(SmallModel(), path, fields, [cut], slices=lambda data: data.split(b"\n\n", 0))
    assert one.out == other.out == by_event.out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=4), st.integers(0, 1000), st.booleans(), st.booleans())
def test_a_sampled_answer_goes_on_from_exactly_what_was_told(
    cuts: list[int], salt: int, chat: bool, weird: bool
) -> None:
    """Another draw would say something else; but what is told is one sequence of ids and their text, no more."""
    path, fields = request("Hi", chat=chat, temperature=0.8, max_tokens=50)
    told = tell(SmallModel(salt=salt, weird=weird), path, fields, cuts)
    if is_honest(told, weird=weird):
        return
    assert told.gave_up == ""
    assert told.way.way is Way.CONTINUE
    ids = told.telling.kept_ids
    # At the end half a character may have been left over.
    assert any(decode(ids[:count], skip_special=True) == told.client.text for count in range(len(ids) + 1))
    assert len(told.client.finish) == told.client.done == 1


@settings(max_examples=200, deadline=None)
@example([6], 936, ["moon"], False, True, 0)  # a special id inside a character
@given(
    st.lists(st.integers(0, 20), max_size=4),
    st.integers(0, 1000),
    st.sampled_from([["moon"], ["e", "fox fox"], ["the of und", " a", "=="], ["海", "🚀x"]]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 12),
)
def test_stop_strings_end_sampled_answers_wherever_they_are_cut(
    cuts: list[int], salt: int, stop: list[str], kept: bool, weird: bool, least: int
) -> None:
    """No token is drawn twice, and one that began before the cut and ends after it is found."""
    path, fields = request(
        "Hi", temperature=0.8, max_tokens=50, stop=stop, include_stop_str_in_output=kept, min_tokens=least
    )
    told = tell(SmallModel(salt=salt, weird=weird, sizes=sizes(salt)), path, fields, cuts)
    if is_honest(told, weird=weird):
        return
    assert told.gave_up == ""
    assert told.way.way is Way.CONTINUE
    client = told.client
    ((finish, reason),) = client.finish
    assert client.done == 1
    text = decode(told.telling.kept_ids, skip_special=True)
    if reason is None:
        assert finish in ("stop", "length")
        assert text.startswith(client.text)
        assert len(text) - len(client.text) < 8
    else:
        assert (finish, reason in stop) == ("stop", True)
        assert text.startswith(client.text if kept else client.text + reason)
        assert client.text.endswith(reason) or not kept
    if not least:
        assert not any(each in client.text.removesuffix(reason or "") for each in stop)


class Loaded(random.Random):
    """Dice that always fall the same."""

    def random(self) -> float:
        return 0.5


@settings(max_examples=200, deadline=None)
@example([6], 141, ["fox fox"], False, True, 0, False)  # a special id inside a character
@given(
    st.lists(st.integers(0, 30), max_size=4),
    st.integers(0, 500),
    st.lists(
        st.sampled_from(["moon", "e", "fox fox", "the of und", " a", "==", "海", "🚀x"]), min_size=1, max_size=3
    ),
    st.booleans(),
    st.booleans(),
    st.integers(0, 20),
    st.booleans(),
)
def test_stop_strings_are_matched_as_the_engine_matches_them(
    cuts: list[int], salt: int, stop: list[str], kept: bool, weird: bool, least: int, grains: bool
) -> None:
    """Sampled with dice that always fall the same, the answer can be held against the one that was not cut."""
    path, fields = request(
        f"Hi {salt}",
        temperature=0.8,
        max_tokens=50,
        stop=stop,
        include_stop_str_in_output=kept,
        min_tokens=least,
        stream_options={"include_usage": True},
    )
    model = SmallModel(weird=weird, sizes=sizes(salt) if grains else lambda: 1)
    model.dice = Loaded()
    whole = tell(model, path, fields).client
    told = tell(model, path, fields, cuts)
    cut = told.client
    if is_honest(told, weird=weird):
        assert whole.text.startswith(cut.text)
        return
    if grains:  # tokens that come together with those that end a stop string are counted
        cut = replace(cut, usage=whole.usage)
    if not (least and grains):  # and may complete one before the least number of tokens is reached
        cut.must_equal(whole)


def test_usually_two_questions_are_enough() -> None:
    """A cut where text and ids go together costs the text of the prompt, and that of the prompt and the ids."""
    path, fields = request("Hi", max_tokens=40)
    assert tell(SmallModel(), path, fields, [4]).calls == 2


def test_an_answer_without_bounds_goes_on_to_the_end_of_the_context() -> None:
    """``/v1/completions`` must be given a number for that: the length of the context is asked for."""
    path, fields = request("Hi", ignore_eos=True)
    model = SmallModel()
    assert tell(model, path, fields, [4]).calls == 3
    continued = model.asked[-1][1]
    assert len(continued["prompt"]) + continued["max_tokens"] == CONTEXT


def test_a_few_special_ids_in_an_answer_are_found() -> None:
    """They are in what ``/detokenize`` says and not in the text; which ones they are is searched for."""
    path, fields = request("weird and long", max_tokens=60, min_tokens=60)
    model = SmallModel(weird=True)
    assert max(tell(model, path, fields, [cut]).calls for cut in range(50)) <= 16


def test_an_answer_of_full_length_is_finished_without_asking() -> None:
    """All of its tokens have come, only the event that says so has not: nothing is left to generate."""
    path, fields = request("Hi", chat=False, max_tokens=6, stream_options={"include_usage": True})
    model = SmallModel()
    events = model.answer(path, json.dumps(fields).encode())
    last = json.loads(events[5].removeprefix(b"data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    body = json.dumps(fields).encode()
    way = approach(FORWARDED[path], fields, body, POLICY, dice=lambda: 0.5)
    telling = Telling(FORWARDED[path], body, way, POLICY, keep=lambda _: True)
    events = model.answer(path, way.body)
    unfinished = events[5].replace(b'"finish_reason":"length"', b'"finish_reason":null')
    out = telling.first().feed(b"".join(events[:5]) + unfinished)
    recovery = telling.recover()
    assert not isinstance(recovery, GiveUp)
    step = recovery.start()
    while isinstance(step, Call):
        step = recovery.got(200, model.reply(step.path, step.body))
    assert isinstance(step, Finished)
    client = Client.of(out + step.payload)
    assert client.finish == [("length", None)]
    assert client.usage["completion_tokens"] == 6
    assert client.done == 1


class Forgetful(SmallModel):
    """Answers differently each time, temperature 0 or not."""

    def answer(self, path: str, body: bytes) -> list[bytes]:
        fields = json.loads(body)
        fields.pop("seed", None)
        return super().answer(path, json.dumps({**fields, "temperature": 1}).encode())


def test_another_answer_is_never_joined_to_the_first() -> None:
    """A replica that repeats differently is found out: the answer ends honestly."""
    path, fields = REPEATED[0]
    told = tell(Forgetful(salt=3), path, fields, [9])
    assert "differ" in told.gave_up
    assert len(told.client.heads) == 1
    assert not told.client.finish


def test_a_token_told_in_part_must_come_again() -> None:
    """Held-back text is generated anew; where it comes out otherwise, nothing is made up."""
    path, fields = request("Hi", stop=["moon moon moon moon"], max_tokens=60, min_tokens=60)
    told = [tell(Forgetful(salt=cut), path, fields, [cut]) for cut in range(10, 50)]
    given_up = [each for each in told if each.gave_up]
    assert len(given_up) > 10
    assert not any(each.client.finish for each in given_up)


def test_a_prompt_that_is_given_out_again_goes_to_nobody() -> None:
    """Should ids be resubmitted that end inside a character, vLLM says the prompt; the client hears none of it."""
    path, fields = request("A secret system prompt that nobody is to see", max_tokens=60)
    way = approach(FORWARDED[path], fields, b"{}", POLICY, dice=lambda: 0.5)
    for prompt in ("<|turn|>user\nA secret prompt<|end|>\n", "user\nA secret prompt\n"):
        record = Record(text=True, ids=True, needed=False, limit_bytes=2**20, keep=lambda _: True)
        wrapping = Wrapping(record, fields, chat=True, collect=False)
        wrapping.chunk("Hello", [4, 5, 6], completion=3)
        stream = Resumed(record, wrapping, Boundary(3, "Hello", prompt), held_back=2)
        data = {"choices": [{"index": 0, "text": "user\nA secret prompt\nHello 🚀", "token_ids": [9]}]}
        assert stream.feed(b"data: " + json.dumps(data).encode() + b"\n\n") == b""
        assert "prompt" in stream.failure
        assert record.diverged == [3]
    assert way.way is Way.NONE  # the body is not the fields': nothing to splice into


def test_what_is_kept_is_bounded_and_given_back() -> None:
    """Above the bound of one stream, or of all, it streams on and can no longer be continued."""
    path, fields = request("Hi", max_tokens=60, min_tokens=60)
    books: list[int] = []

    def keep(count: int) -> bool:
        books.append(count)
        return True

    small = replace(POLICY, max_kept_per_stream=300)
    told = tell(SmallModel(), path, fields, [40], policy=small, keep=keep)
    assert "300 bytes" in told.gave_up
    assert sum(books) == told.telling.kept_bytes == 0
    told = tell(SmallModel(), path, fields, [40], keep=lambda count: count < 0)
    assert "memory" in told.gave_up
    whole = tell(SmallModel(), path, fields, policy=small)
    assert whole.client.done == 1
    books.clear()
    told = tell(SmallModel(), path, fields, [30], keep=keep)
    assert sum(books) == told.telling.kept_bytes > 0
    told.telling.close()
    assert sum(books) == told.telling.kept_bytes == 0


# -- answers in one piece


@pytest.mark.parametrize("number", range(6))
def test_an_answer_in_one_piece_is_collected_over_replicas(number: int) -> None:
    """The client sees nothing until all of it is there, then what it would have got in one piece."""
    path, fields = [
        request("Hi"),
        request("Hi", max_tokens=300),
        request("Hi", chat=False, max_tokens=300),
        request("Hi", chat=False, max_tokens=300, return_token_ids=True),
        request("stop", stop=["moon"], include_stop_str_in_output=True),
        request("seed", seed=4, temperature=1),
    ][number]
    del fields["stream"]
    model = SmallModel()
    events = model.answer(path, json.dumps({**fields, "stream_options": {"include_usage": True}}).encode())
    expected = Client.of(b"".join(events))
    for cut in [None, *range(len(events))]:
        told = tell(model, path, fields, [] if cut is None else [cut])
        assert told.way.collect
        assert told.out == b""
        assert not told.telling.begun
        answer = json.loads(told.telling.whole())
        (choice,) = answer["choices"]
        if path == CHAT:
            assert answer["object"] == "chat.completion"
            assert choice["message"]["role"] == "assistant"
            assert choice["message"]["content"] == expected.text
        else:
            assert answer["object"] == "text_completion"
            assert choice["text"] == expected.text
        assert (choice["finish_reason"], choice["stop_reason"]) == expected.finish[0]
        assert answer["usage"].items() >= expected.usage.items()
        assert (choice["token_ids"] is not None) == (fields.get("return_token_ids") is True)
        if cut is None:
            assert answer["system_fingerprint"] == "small-1"
