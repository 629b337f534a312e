"""What an engine said at last, in one line: the end comes first, and the whole is kept where there is room."""

from hedgeserve.machines.lastwords import in_short

USAGE = " | ".join(f"[--option-{number} VALUE]" for number in range(20))


def test_the_error_stands_before_the_usage() -> None:
    """A command line prints its usage first; what was wrong is the line after it."""
    said = (
        f"the engine exited with status 2; its last words: usage: demo | {USAGE} | demo: error: no option --fast"
    )
    assert in_short(said) == "the engine exited with status 2; its last words: demo: error: no option --fast"


def test_a_last_line_that_says_little_has_the_one_before_it() -> None:
    """Some programs end with a word."""
    said = f"the engine exited with status 6; its last words: {USAGE} | the GPU is gone | Aborted"
    assert in_short(said) == "the engine exited with status 6; its last words: the GPU is gone | Aborted"


def test_a_few_words_and_other_sentences_are_left_as_they_are() -> None:
    """There is nothing to shorten."""
    for said in ("it answered", "the engine exited with status 7; its last words: serving | stopped", "x" * 500):
        assert in_short(said) == said


def test_a_last_line_without_an_end_is_cut_in_front() -> None:
    """One line may be longer than all that is kept."""
    told = in_short("the engine exited with status 1; its last words: first | " + "x" * 999 + "end")
    assert told.startswith("the engine exited with status 1; its last words: … xxx")
    assert told.endswith("xend")
    assert len(told) < 360
