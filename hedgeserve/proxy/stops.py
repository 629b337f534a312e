"""Stop strings across a cut: matched by us, since the next replica knows only what comes after it. Pure."""

from collections.abc import Sequence


class Stops:
    """Holds back what may be the beginning of a stop string, and finds those that are complete.

    ``before`` is all text that was generated so far, in which no stop string is complete; its last
    ``held_back`` characters have not been told. With ``keep`` the stop string is a part of the answer, and nothing
    is held back: what had been told cannot be taken back, and need not be.
    """

    def __init__(self, stops: Sequence[str], *, keep: bool, before: str, held_back: int) -> None:
        self._stops = [stop for stop in stops if stop]
        self._keep = keep
        self._reach = max((len(stop) - 1 for stop in self._stops), default=0)
        start = max(0, len(before) - max(self._reach, held_back))
        self._text = before[start:]
        self._told = len(self._text) - held_back

    def feed(self, text: str, *, active: bool) -> tuple[str, str | None]:
        """What may be told now, and the stop string that ends it; unless ``active`` none does (``min_tokens``)."""
        old = len(self._text)
        self._text += text
        found = [
            (place + len(stop), stop)
            for stop in (self._stops if active and text else ())
            if (place := self._text.find(stop, max(0, old - len(stop) + 1))) >= 0
        ]
        if found:
            end, stop = min(found, key=lambda pair: pair[0])
            return self._tell(end if self._keep else end - len(stop)), stop
        told = self._tell(len(self._text) - (0 if self._keep else self._reach))
        spare = min(self._told, len(self._text) - self._reach)
        if spare > 0:
            self._text = self._text[spare:]
            self._told -= spare
        return told, None

    def rest(self) -> str:
        """What was held back: the answer has ended otherwise."""
        return self._tell(len(self._text))

    def _tell(self, end: int) -> str:
        start, self._told = self._told, max(self._told, end)
        return self._text[start : self._told]


def stop_strings(value: object) -> list[str]:
    """The stop strings that a request asks for."""
    given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [stop for stop in given if isinstance(stop, str) and stop]


def most_held_back(stops: Sequence[str]) -> int:
    """How many characters of the longest can stand at the end of a text without its being complete."""
    return max((len(stop) - 1 for stop in stops), default=0)
