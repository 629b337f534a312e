"""What is remembered of prompts is true, is found, and has a bound."""

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.prefixes import Prefixes
from hedgeserve.replica import ReplicaId

A, B = ReplicaId("a"), ReplicaId("b")
PROMPTS = st.binary(min_size=1, max_size=2000)


@given(st.lists(st.tuples(PROMPTS, st.sampled_from([A, B])), max_size=60), st.integers(200, 4000))
def test_memory_never_exceeds_its_bound(answers: list[tuple[bytes, ReplicaId]], most_bytes: int) -> None:
    """Whatever comes, in whatever order."""
    prefixes = Prefixes(most_bytes)
    for prompt, replica in answers:
        prefixes.answered(prompt, replica)
        assert prefixes.memory_bytes <= max(most_bytes, 200)


@given(PROMPTS, PROMPTS)
def test_a_prompt_that_goes_on_is_known_by_its_beginning(prompt: bytes, more: bytes) -> None:
    """To a block's length."""
    prefixes = Prefixes(2**20)
    prefixes.answered(prompt, A)
    assert prefixes.longest(prompt, {A, B}) == A
    if len(prompt) >= 256:
        assert prefixes.longest(prompt + more, {A, B}) == A
    assert prefixes.longest(prompt, {B}) is None


def test_the_longest_beginning_wins() -> None:
    """One replica has the system prompt, another the whole talk."""
    prefixes = Prefixes(2**20)
    system, talk = b"s" * 512, b"s" * 512 + b"t" * 512
    prefixes.answered(talk, A)
    prefixes.answered(system + b"u" * 512, B)
    assert prefixes.longest(talk + b"more", {A, B}) == A
    assert prefixes.longest(system + b"new" * 300, {A, B}) == B


def test_a_replica_that_is_gone_is_forgotten() -> None:
    """And so is what it took."""
    prefixes = Prefixes(2**20)
    prefixes.answered(b"x" * 1000, A)
    prefixes.answered(b"y" * 300, B)
    prefixes.forget(A)
    assert prefixes.longest(b"x" * 1000, {A, B}) is None
    assert prefixes.longest(b"y" * 300, {A, B}) == B
    prefixes.forget(B)
    assert prefixes.memory_bytes == 0


def test_what_was_not_seen_for_longest_goes_first() -> None:
    """Three prompts in room for two."""
    prefixes = Prefixes(400)
    for prompt in (b"one", b"two"):
        prefixes.answered(prompt, A)
    prefixes.answered(b"one", A)
    prefixes.answered(b"three", A)
    assert [prefixes.longest(prompt, {A}) for prompt in (b"one", b"two", b"three")] == [A, None, A]
