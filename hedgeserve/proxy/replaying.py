"""An answer repeated from its start: swallowed while it is what was told, joined where it goes past that. Pure."""

from typing import Any

from hedgeserve.proxy.follow import EventStream, count_tokens
from hedgeserve.proxy.record import Channel, Record, calls, count_logprobs
from hedgeserve.proxy.steps import GiveUp, Resume, Step
from hedgeserve.proxy.verdict import Sign
from hedgeserve.proxy.wrapping import encode


class Replay:
    """Asks for the answer from its start."""

    def __init__(self, record: Record, path: str, body: bytes, *, hide_ids: bool, choices: int) -> None:
        self._record = record
        self._path = path
        self._body = body
        self._hide = hide_ids
        self._choices = choices

    def start(self) -> Step:
        """The request as it was sent at first."""
        stream = Replayed(self._record, hide_ids=self._hide, choices=self._choices)
        return Resume(self._path, self._body, stream)

    def got(self, status: int, body: bytes) -> Step:
        """A refusal."""
        return GiveUp(f"the replica refused to repeat it ({status})")


class Replayed(EventStream):
    """The stream of an answer that comes a second time."""

    def __init__(self, record: Record, *, hide_ids: bool, choices: int) -> None:
        super().__init__(choices=choices)
        self._record = record
        self._hide = hide_ids
        if hide_ids and record.empty:  # nothing that these ids stand for has been told: others may come
            record.rewind_ids(0)
            record.told_ids.clear()
        self._told = record.texts()
        self._at: dict[Channel, int] = {}
        self._roles = set(record.roles)
        self._ended = set(record.finished)
        self._ids = record.ids[:]
        self._ids_left = dict(record.told_ids)
        self._logprobs_left = dict(record.logprobs)

    def _unread(self, raw: bytes) -> bytes:
        self.failure = "the replica sent an event that makes no sense"
        return b""

    def _end(self, raw: bytes) -> bytes:
        out = super()._end(raw)
        if out and any(self._behind(index) for index, _ in self._told):
            return self._diverge()
        if not out or self._record.done:
            return b""
        self._record.done = True
        return out

    def _chunk(self, raw: bytes, event: dict[str, Any], sign: Sign) -> bytes:
        self.tokens += count_tokens(event)
        record = self._record
        given = event.get("choices")
        if not given:
            told = isinstance(event.get("usage"), dict) and not record.usage_told
        else:
            left = [self._trim(choice) for choice in given if isinstance(choice, dict)]
            if self.failure:
                return b""
            event["choices"] = [choice for choice, _ in left if choice is not None]
            told = any(more for _, more in left)
            if not event["choices"]:
                return b""
        if head := record.head.id:
            event.update(id=head, created=record.head.created, model=record.head.model)
        if event.get("system_fingerprint"):
            event["system_fingerprint"] = record.head.fingerprint or event["system_fingerprint"]
        if not told and given:
            event.pop("usage", None)
        if told or given:
            record.add(event)
        if not told:
            return b""
        if self._hide:
            _hide_ids(event)
        return encode(event)

    def _trim(self, choice: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
        """What of a choice is new, None where it is not even worth recording; and whether the client is told."""
        index = choice.get("index", 0)
        more = self._trim_text(choice, index)
        if index in self._ended:
            return None, False
        more = self._trim_ids(choice, index) or more
        more = self._trim_logprobs(choice, index) or more
        finish = choice.get("finish_reason")
        if (more or finish) and self._behind(index):
            self._diverge()
        return choice, more or bool(finish)

    def _trim_text(self, choice: dict[str, Any], index: int) -> bool:
        more = False
        if isinstance(text := choice.get("text"), str):
            choice["text"] = self._rest((index, "text"), text)
            more = bool(choice["text"])
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return more
        if "role" in delta:
            if index in self._roles:
                del delta["role"]
            else:
                self._roles.add(index)
                more = True
        for name, value in delta.items():
            if isinstance(value, str) and name != "role":
                delta[name] = self._rest((index, name), value)
                more = more or bool(delta[name])
        if given := calls(choice):
            delta["tool_calls"] = [call for call in given if self._trim_call(call, index)]
            more = more or bool(delta["tool_calls"])
            if not delta["tool_calls"]:
                del delta["tool_calls"]
        return more

    def _trim_call(self, call: dict[str, Any], index: int) -> bool:
        number = call.get("index", 0)
        known = (index, str(number)) in self._record.tool_calls
        more = False
        function = call.get("function")
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                if isinstance(value := function.get(name), str):
                    function[name] = self._rest((index, f"tool {number} {name}"), value)
                    more = more or bool(function[name])
            if known and not function.get("name"):
                function.pop("name", None)
        if known:  # its id was told, and is another one now
            call.pop("id", None)
            call.pop("type", None)
            return more
        return True

    def _trim_ids(self, choice: dict[str, Any], index: int) -> bool:
        ids = choice.get("token_ids")
        if not isinstance(ids, list):
            return False
        left = self._ids_left.get(index, 0)
        count = min(left, len(ids))
        if index == 0 and len(self._ids) >= left > 0:
            start = len(self._ids) - left
            if ids[:count] != self._ids[start : start + count].tolist():
                if self._hide:
                    self._record.no_ids = "another replica gave other token ids"
                else:
                    self._diverge()
        self._ids_left[index] = left - count
        if count:
            choice["token_ids"] = ids[count:]
            if choice.get("prompt_token_ids"):
                choice["prompt_token_ids"] = None
        return not self._hide and len(ids) > count

    def _trim_logprobs(self, choice: dict[str, Any], index: int) -> bool:
        logprobs = choice.get("logprobs")
        size = count_logprobs(choice)
        if not size or not isinstance(logprobs, dict):
            return False
        count = min(self._logprobs_left.get(index, 0), size)
        self._logprobs_left[index] = self._logprobs_left.get(index, 0) - count
        choice["logprobs"] = {
            key: value[count:] if isinstance(value, list) else value for key, value in logprobs.items()
        }
        return size > count

    def _rest(self, channel: Channel, piece: str) -> str:
        """What of a piece has not been told; it must be the same again as far as it has."""
        told = self._told.get(channel, "")
        at = self._at.get(channel, 0)
        count = min(len(piece), len(told) - at)
        if count and told[at : at + count] != piece[:count]:
            self._diverge()
        self._at[channel] = at + max(0, count)
        return piece[count:] if count > 0 else piece

    def _behind(self, index: int) -> bool:
        """Whether something that was told of a choice has not come again yet."""
        return any(
            self._at.get(channel, 0) < len(text) for channel, text in self._told.items() if channel[0] == index
        )

    def _diverge(self) -> bytes:
        self.failure = self.failure or "another replica's answer differs from what has been told of it"
        self._record.diverged.append(-1)
        return b""


def _hide_ids(event: dict[str, Any]) -> None:
    for place in (event, *event.get("choices", ())):
        for key in ("token_ids", "prompt_token_ids"):
            if isinstance(place, dict) and place.get(key) is not None:
                place[key] = None
