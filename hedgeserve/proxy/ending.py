"""How a client's stream ends where nothing more will come: told of as it is. Pure."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of a stream at the moment at which its replica failed."""

    complete: bool  # every choice had its real finish_reason
    done: bool  # `[DONE]` had passed
    says_done: bool  # a stream of this API ends with `[DONE]`


class Ending(StrEnum):
    """How the client's stream ends."""

    CLOSE = "close"  # nothing is missing
    SAY_DONE = "say_done"  # only the closing `[DONE]` is missing: we say it
    TELL = "tell"  # an error event, then the end, without `[DONE]`: an honest failure


def after(cut: Cut) -> Ending:
    """How to end a stream that was cut: whole answers are whole, whatever became of the connection."""
    if not cut.complete:
        return Ending.TELL
    return Ending.SAY_DONE if cut.says_done and not cut.done else Ending.CLOSE
