"""What one client has been told of its answer, kept so that the answer can go on elsewhere. Pure.

Text is kept per choice and channel (``text``, ``content``, ``reasoning``, a tool call's arguments), token ids for
the answer's one choice. The bytes of ordinary events are laid aside as they are and read in batches: reading each
would cost several times what passing it on costs.
"""

import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Channel = tuple[int, str]
"""The index of a choice, and the name of one of its strands of text."""

BATCH = 16
"""How many ordinary events are laid aside before they are read."""
_PER_PIECE_BYTES = 57  # what Python keeps beside the text of a short string, its place in a list included


@dataclass(slots=True)
class Head:
    """What every event of an answer repeats: that of the first, whoever goes on with it."""

    id: str = ""
    created: int = 0
    model: str = ""
    fingerprint: str | None = None


class Record:
    """One client's answer so far.

    ``keep`` is asked before memory is taken (in bytes; negative gives back) and may refuse. Where it does, or
    where ``limit_bytes`` is passed, ``lost`` says so, the memory is given back, and the answer can no longer be
    continued; one that is being collected keeps its text, which is the answer itself.
    """

    def __init__(
        self, *, text: bool, ids: bool, needed: bool, limit_bytes: int, keep: Callable[[int], bool]
    ) -> None:
        self.keeps_text = text
        self.keeps_ids = ids
        self._needed = needed
        self._limit_bytes = limit_bytes
        self._keep = keep
        self.lost = ""
        self.kept_bytes = 0
        self.ids = array("I")
        self.prompt_ids: array[int] = array("I")
        self.head = Head()
        self.begun = False
        """Whether anything at all has been told."""
        self.done = False
        self.roles: dict[int, str] = {}
        self.finished: dict[int, tuple[str, Any]] = {}
        """Choices that have finished: their finish_reason and stop_reason."""
        self.usage: dict[str, Any] | None = None
        self.usage_told = False
        """Whether the event with the sums has been told."""
        self.logprobs: dict[int, int] = {}
        self.told_ids: dict[int, int] = {}
        """How many token ids have been told, of each choice."""
        self.tool_calls: dict[Channel, dict[str, Any]] = {}
        """What was told first of each tool call: its id, which the client goes by."""
        self.diverged: list[int] = []
        """Where tries to go on have failed because something else came than had been told: the number of ids that
        they went on from, -1 where it was from the start."""
        self.no_ids = ""
        """Why the ids do not tell all; empty while they do."""
        self._texts: dict[Channel, list[str]] = {}
        self._fast: Channel = (0, "text")
        self.waiting_texts: list[bytes] = []
        """Texts of ordinary events, as they stand in JSON between the quotes; :meth:`compact` reads them."""
        self.waiting_ids: list[bytes] = []
        """Their token ids, as they stand in JSON between the brackets."""

    # -- reading

    def texts(self) -> dict[Channel, str]:
        """What has been told, strand by strand."""
        self.compact()
        for channel, pieces in self._texts.items():
            if len(pieces) > 1:
                self._texts[channel] = ["".join(pieces)]
        return {channel: pieces[0] for channel, pieces in self._texts.items() if pieces and pieces[0]}

    def text(self) -> str:
        """What has been told of the first choice's main strand."""
        texts = self.texts()
        return texts.get((0, "text"), "") or texts.get((0, "content"), "")

    @property
    def empty(self) -> bool:
        """Whether nothing of the answer itself has been told: at most the role."""
        self.compact()
        told = any(any(pieces) for pieces in self._texts.values())
        return not (told or self.finished or self.tool_calls or self.done)

    # -- keeping

    def set_fast(self, channel: Channel) -> None:
        """Say which strand the ordinary events belong to."""
        if channel != self._fast:
            self.compact()
            self._fast = channel

    def compact(self) -> None:
        """Read the events that were laid aside."""
        if not self.waiting_texts:
            return
        raw, raw_ids = b"".join(self.waiting_texts), b",".join(filter(None, self.waiting_ids))
        self.waiting_texts.clear()
        self.waiting_ids.clear()
        if not self.keeps_text:
            return
        try:
            text = json.loads(b'"%b"' % raw)
            ids = array("I", json.loads(b"[%b]" % raw_ids)) if raw_ids else None
        except (ValueError, TypeError, OverflowError):
            self.lose("the engine's events could not be read")
            return
        if ids is not None:
            self._add_ids(0, ids)
        elif self.keeps_ids and raw:
            self.no_ids = "the engine gave no token ids"
        self._add_text(self._fast, text)

    def add(self, event: dict[str, Any]) -> None:
        """Keep what an event tells; it must be told to the client next."""
        self.compact()
        if not self.head.id and isinstance(event.get("id"), str):
            self.head.id = event["id"]
            self.head.created = event.get("created", 0)
            self.head.model = event.get("model", "")
        if isinstance(fingerprint := event.get("system_fingerprint"), str) and not self.head.fingerprint:
            self.head.fingerprint = fingerprint
        self._add_prompt_ids(event.get("prompt_token_ids"))
        if isinstance(usage := event.get("usage"), dict):
            self.usage = usage
        choices = event.get("choices")
        if choices == [] and self.usage is not None:
            self.usage_told = True
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._add_choice(choice)

    def rewind_ids(self, count: int) -> None:
        """Drop the ids from ``count`` on: the replica that goes on gives them anew."""
        freed = 4 * (len(self.ids) - count)
        if freed > 0:
            del self.ids[count:]
            self._give_back(freed)

    def lose(self, why: str) -> None:
        """Give up being continued, and the memory for it."""
        self.lost = self.lost or why
        self.ids = array("I")
        self.prompt_ids = array("I")
        self.waiting_ids.clear()
        self.keeps_ids = False
        if not self._needed:
            self.keeps_text = False
            self._texts.clear()
            self.waiting_texts.clear()
            self.close()

    def close(self) -> None:
        """Give all memory back."""
        kept, self.kept_bytes = self.kept_bytes, 0
        if kept:
            self._keep(-kept)

    # -- the parts of an event

    def _add_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        self._add_prompt_ids(choice.get("prompt_token_ids"))
        delta = choice.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("role"), str):
            self.roles[index] = delta["role"]
        said = False
        for channel, piece in strands(choice):
            said = said or bool(piece)
            if piece and channel not in ("text", "content"):
                self.no_ids = "the answer has parts that are not plain text"
            self._add_text((index, channel), piece)
        for call in calls(choice):
            if call.get("id"):
                self.tool_calls.setdefault((index, str(call.get("index", 0))), {"id": call["id"]})
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            self._add_ids(index, ids)
        elif said and self.keeps_ids:
            self.no_ids = self.no_ids or "the engine gave no token ids"
        self.logprobs[index] = self.logprobs.get(index, 0) + count_logprobs(choice)
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finished[index] = (reason, choice.get("stop_reason"))

    def _add_prompt_ids(self, ids: object) -> None:
        if self.keeps_ids and isinstance(ids, list) and ids and not self.prompt_ids:
            try:
                numbers = array("I", ids)
            except (TypeError, OverflowError):
                self.no_ids = "the engine's token ids are no numbers"
                return
            if self._take(4 * len(numbers)):
                self.prompt_ids = numbers

    def _add_ids(self, index: int, ids: "list[int] | array[int]") -> None:
        if not self.keeps_ids or index:
            self.told_ids[index] = self.told_ids.get(index, 0) + len(ids)
            return
        try:
            numbers = ids if isinstance(ids, array) else array("I", ids)
        except (TypeError, OverflowError):
            self.no_ids = "the engine's token ids are no numbers"
            return
        if self._take(4 * len(numbers)):
            self.ids.extend(numbers)
            self.told_ids[0] = max(self.told_ids.get(0, 0), len(self.ids))

    def _add_text(self, channel: Channel, piece: str) -> None:
        if piece and self.keeps_text and (self._take(_size(piece)) or self._needed):
            self._texts.setdefault(channel, []).append(piece)

    def _take(self, count: int) -> bool:
        if self.lost:
            return False
        if self.kept_bytes + count > self._limit_bytes:
            self.lose(f"the answer needs more than {self._limit_bytes} bytes to be kept")
            return False
        if not self._keep(count):
            self.lose("the memory kept for all streams together is full")
            return False
        self.kept_bytes += count
        return True

    def _give_back(self, count: int) -> None:
        self.kept_bytes -= count
        self._keep(-count)


def _size(piece: str) -> int:
    return _PER_PIECE_BYTES + (len(piece) if piece.isascii() else 4 * len(piece))


def strands(choice: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The strands of text that a choice of an event goes on with, and how."""
    if isinstance(text := choice.get("text"), str):
        yield "text", text
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for name, value in delta.items():
        if isinstance(value, str) and name != "role":
            yield name, value
    for call in calls(choice):
        function = call.get("function")
        for name in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(value := function.get(name), str):
                yield f"tool {call.get('index', 0)} {name}", value


def calls(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls that a choice of an event goes on with."""
    delta = choice.get("delta")
    given = delta.get("tool_calls") if isinstance(delta, dict) else None
    return [call for call in given if isinstance(call, dict)] if isinstance(given, list) else []


def count_logprobs(choice: dict[str, Any]) -> int:
    """For how many tokens a choice of an event tells log-probabilities."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return 0
    entries = given.get("content") or given.get("tokens") or ()
    return len(entries)
