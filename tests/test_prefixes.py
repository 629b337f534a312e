"""What is remembered of prompts is true, is found, and has a bound."""

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.prefixes import Prefixes, beginnings
from hedgeserve.replica import ReplicaId

A, B = ReplicaId("a"), ReplicaId("b")
PROMPTS = st.binary(min_size=1, max_size=2000)


@given(st.lists(st.tuples(PROMPTS, st.sampled_from([A, B])), max_size=60), st.integers(200, 4000))
def test_memory_never_exceeds_its_bound(answers: list[tuple[bytes, ReplicaId]], most_bytes: int) -> None:
    """Whatever comes, in whatever order."""
    prefixes = Prefixes(most_bytes)
    for prompt, replica in answers:
        prefixes.answered(beginnings(prompt), replica)
        assert prefixes.memory_bytes <= max(most_bytes, 288)


@given(PROMPTS, PROMPTS)
def test_a_prompt_that_goes_on_is_known_by_its_beginning(prompt: bytes, more: bytes) -> None:
    """To a block's length."""
    prefixes = Prefixes(2**20)
    prefixes.answered(beginnings(prompt), A)
    assert prefixes.longest(beginnings(prompt), {A, B}) == A
    if len(prompt) >= 256:
        assert prefixes.longest(beginnings(prompt + more), {A, B}) == A
    assert prefixes.longest(beginnings(prompt), {B}) is None


def test_the_longest_beginning_wins() -> None:
    """One replica has the system prompt, another the whole talk."""
    prefixes = Prefixes(2**20)
    system, talk = b"s" * 512, b"s" * 512 + b"t" * 512
    prefixes.answered(beginnings(talk), A)
    prefixes.answered(beginnings(system + b"u" * 512), B)
    assert prefixes.longest(beginnings(talk + b"more"), {A, B}) == A
    assert prefixes.longest(beginnings(system + b"new" * 300), {A, B}) == B


def test_a_replica_that_is_gone_is_forgotten() -> None:
    """And so is what it took."""
    prefixes = Prefixes(2**20)
    prefixes.answered(beginnings(b"x" * 1000), A)
    prefixes.answered(beginnings(b"y" * 300), B)
    prefixes.forget(A)
    assert prefixes.longest(beginnings(b"x" * 1000), {A, B}) is None
    assert prefixes.longest(beginnings(b"y" * 300), {A, B}) == B
    prefixes.forget(B)
    assert prefixes.memory_bytes == 0


def test_what_was_not_seen_for_longest_goes_first() -> None:
    """Three prompts in room for two."""
    prefixes = Prefixes(600)
    for prompt in (b"one", b"two"):
        prefixes.answered(beginnings(prompt), A)
    prefixes.answered(beginnings(b"one"), A)
    prefixes.answered(beginnings(b"three"), A)
    assert [prefixes.longest(beginnings(prompt), {A}) for prompt in (b"one", b"two", b"three")] == [A, None, A]


def test_a_talk_is_known_though_whoever_shared_its_beginning_is_gone() -> None:
    """Two talks have one system prompt; the replica that answered it last is taken away."""
    prefixes = Prefixes(2**20)
    system, talk = b"s" * 512, b"s" * 512 + b"t" * 512
    prefixes.answered(beginnings(talk), A)
    prefixes.answered(beginnings(system + b"u" * 512), B)
    prefixes.forget(B)
    assert prefixes.longest(beginnings(talk + b"more"), {A}) == A
    assert prefixes.longest(beginnings(system), {A, B}) is None


def test_the_end_of_a_talk_is_forgotten_before_its_beginning() -> None:
    """What others may share is kept the longest, even of a prompt that is longer than all the room."""
    prefixes = Prefixes(3 * 288)
    prefixes.answered(beginnings(b"a" * 256 + b"b" * 2000), A)
    assert prefixes.longest(beginnings(b"a" * 256 + b"z" * 300), {A}) == A
    prefixes.answered(beginnings(b"one"), B)
    prefixes.answered(beginnings(b"two"), B)
    assert prefixes.longest(beginnings(b"a" * 256), {A}) == A


def test_one_that_comes_back_by_the_same_name_knows_nothing() -> None:
    """A server that somebody else runs was restarted: its cache is empty, whatever its name."""
    prefixes = Prefixes(2**20)
    prefixes.answered(beginnings(b"y" * 300), B)
    prefixes.answered(beginnings(b"x" * 300), A)
    prefixes.forget(A)
    prefixes.answered(beginnings(b"z" * 300), A)
    assert prefixes.longest(beginnings(b"x" * 300), {A}) is None
    assert prefixes.longest(beginnings(b"z" * 300), {A}) == A


@pytest.mark.parametrize("most_bytes", [*(int(2 ** (18 + step / 16)) for step in range(16)), 3 * 2**20])
def test_no_more_memory_is_taken_than_is_told(most_bytes: int) -> None:
    """Not even in the moment in which the map is copied, when old entries make room for new ones."""
    gc.collect()
    tracemalloc.start()
    try:
        prefixes = Prefixes(most_bytes)
        for number in range(most_bytes // 100):
            prefixes.answered(beginnings(number.to_bytes(8, "big")), A)
            if number == most_bytes // 600:
                half_full_bytes, _ = tracemalloc.get_traced_memory()
                assert half_full_bytes <= prefixes.memory_bytes + 1024
        _, peak_bytes = tracemalloc.get_traced_memory()
        assert peak_bytes <= most_bytes + 1024
    finally:
        tracemalloc.stop()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "forget"]),
            st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
            st.sampled_from([A, B]),
        ),
        max_size=40,
    ),
    st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
    st.sets(st.sampled_from([A, B])),
)
def test_what_is_remembered_is_what_was_answered_last(
    story: list[tuple[str, list[str], ReplicaId]], asked: list[str], among: set[ReplicaId]
) -> None:
    """With room enough, a plain map of beginnings agrees."""
    prefixes, known = Prefixes(2**20), dict[str, ReplicaId]()
    for what, blocks, replica in story:
        if what == "forget":
            prefixes.forget(replica)
            known = {text: by for text, by in known.items() if by != replica}
        else:
            prefixes.answered(beginnings(b"".join(block.encode() * 256 for block in blocks)), replica)
            known |= {"".join(blocks[:end]): replica for end in range(1, len(blocks) + 1)}
    lengths = range(len(asked), 0, -1)
    expected = next((known[t] for n in lengths if known.get(t := "".join(asked[:n])) in among), None)
    assert prefixes.longest(beginnings(b"".join(block.encode() * 256 for block in asked)), among) == expected
