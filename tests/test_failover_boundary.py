"""Where an answer is taken up again, question by question, and how stop strings are matched across that place."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.boundary import Boundary, find
from hedgeserve.proxy.reemission import reemits
from hedgeserve.proxy.stops import Stops, most_held_back, stop_strings
from tests.smallmodel import END, QUIET, VOCABULARY, decode, encode

PROMPT = array("I", [0, *encode("Hi\n")])


def search(ids: list[int], told: str, *, room: int = 0, beyond: bool = False) -> tuple[Boundary | None, list[int]]:
    """The boundary found, and of how many ids each question was."""
    asked: list[int] = []
    questions = find(PROMPT, array("I", ids), told, most=len(ids), room=room, beyond=beyond)
    question = next(questions)
    while True:
        asked.append(len(question))
        try:
            question = questions.send(decode(question))
        except StopIteration as stop:
            return stop.value, asked


def test_ids_that_end_with_their_text_are_kept_whole() -> None:
    """Asked: the text of the prompt, and the text of the prompt and all ids."""
    ids = encode("moon")
    found, asked = search(ids, "moon")
    assert found == Boundary(4, "moon", "<|begin|>Hi\n")
    assert asked == [len(PROMPT), len(PROMPT) + 4]


def test_half_a_character_is_left_out() -> None:
    """Of the rocket's four bytes three have come, and nothing of it has been told."""
    found, _ = search(encode("moon 🚀")[:-1], "moon ")
    assert found is not None
    assert (found.count, found.text) == (5, "moon ")


def test_held_back_text_is_left_out() -> None:
    """It will be generated again, and held back again."""
    found, _ = search(encode("the moon is"), "the mo")
    assert found is not None
    assert (found.count, found.text) == (6, "the mo")


def test_where_nothing_is_held_back_room_is_left_for_a_stop_string() -> None:
    """Its beginning has been told, and must be seen by the replica that finds its end."""
    found, _ = search(encode("the moon"), "the moon", room=3)
    assert found is not None
    assert found.text == "the m"


def test_with_chance_the_last_token_is_kept_whole() -> None:
    """Of " moon" the beginning was told: drawn anew, its end might be another. The token after it was not told."""
    moon = VOCABULARY.index(b" moon")
    found, _ = search([*encode("the"), moon, moon], "the mo", beyond=True)
    assert found is not None
    assert (found.count, found.text) == (4, "the moon")


def test_a_word_like_a_special_one_behind_half_a_character_is_in_doubt() -> None:
    """Nobody can see whether ``<br>`` was shown: to guess might lose it, or tell what is hidden."""
    texts = {1: "x\ufffd", 2: "x\ufffd<br>"}  # one letter and half a character; a word of one id
    for shows_special, expected in ((False, None), (True, "x\ufffd<br>")):
        questions = find(PROMPT, array("I", [7, 8]), "x", most=2, beyond=True, shows_special=shows_special)
        asked = next(questions)
        try:
            while True:
                asked = questions.send(decode(PROMPT) + texts.get(len(asked) - len(PROMPT), ""))
        except StopIteration as stop:
            found = stop.value
        assert (found and found.text) == expected


def test_ids_without_text_are_found_and_looked_past() -> None:
    """``/detokenize`` shows what an answer does not."""
    found, _ = search([*encode("the"), QUIET, *encode(" moon"), END], "the moon")
    assert found is not None
    assert found.text == "the moon"


def test_a_text_that_its_ids_do_not_have_is_no_place_to_go_on() -> None:
    """Another tokenizer, or text that was cleaned up: it is repeated or given up, never guessed."""
    found, asked = search(encode("the moon" * 20), "the sun")
    assert found is None
    assert len(asked) < 80


def test_a_prompt_given_out_again_is_recognised() -> None:
    """With its special tokens or without them, with the end held back, and by its sheer length."""
    at = Boundary(5, "Hello", "<|im_start|>user\nTell me a secret<|im_end|>\n")
    assert reemits("user\nTell me a secret\nHello 🚀", at, tokens=1, held_back=0)
    assert reemits("user\nTell me a secret\nHel", at, tokens=1, held_back=4)
    assert reemits("<|im_start|>user\nTell me a secret<|im_end|>\nHello 🚀", at, tokens=1, held_back=0)
    assert reemits("x" * 2000, at, tokens=1, held_back=0)
    assert reemits("user\nTell me a secret\nHel<lo", at, tokens=1, held_back=0)
    assert not reemits(" and user", at, tokens=1, held_back=0)
    assert not reemits("Hello Hello", at, tokens=4, held_back=0)


pieces = st.lists(st.text("ab", max_size=3), max_size=12)


@given(pieces, pieces, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.booleans())
def test_a_stop_string_is_found_wherever_the_text_is_cut(
    first: list[str], second: list[str], stops: list[str], keep: bool
) -> None:
    """One that matches all the text and one that takes over half-way tell the same."""

    def follow(matcher: Stops, texts: list[str]) -> tuple[str, str | None]:
        told = ""
        for text in texts:
            more, stop = matcher.feed(text, active=True)
            told += more
            if stop is not None:
                return told, stop
        return told, None

    whole = Stops(stops, keep=keep, before="", held_back=0)
    told, stop = follow(whole, first)
    if stop is not None:
        return
    before = "".join(first)
    assert before.startswith(told)
    assert len(before) - len(told) <= most_held_back(stops)
    second_half = Stops(stops, keep=keep, before=before, held_back=len(before) - len(told))
    assert follow(second_half, second) == follow(whole, second)
    assert second_half.rest() == whole.rest()


def test_stop_strings_are_read_as_they_are_given() -> None:
    """One, several, or none at all."""
    assert stop_strings("a") == ["a"]
    assert stop_strings(["a", "", 5]) == ["a"]
    assert stop_strings(None) == stop_strings(7) == []
