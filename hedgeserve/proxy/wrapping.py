"""Events in our own words, of the API and with the head that the client's answer began with. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hedgeserve.proxy.record import Record

DONE_EVENT = b"data: [DONE]\n\n"


def encode(event: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + data.encode("utf-8", "surrogatepass") + b"\n\n"


class Wrapping:
    """Puts what another replica generates into events as the first one would have said them, and records them."""

    def __init__(self, record: Record, fields: Mapping[str, Any], *, chat: bool, collect: bool) -> None:
        options = fields.get("stream_options")
        options = options if isinstance(options, dict) else {}
        self._record = record
        self._chat = chat
        self.sums_wanted = collect or options.get("include_usage") is True
        self._running_sums = self.sums_wanted and options.get("continuous_usage_stats") is True
        self.shows_ids = fields.get("return_token_ids") is True

    def _head(self) -> dict[str, Any]:
        head = self._record.head
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {"id": head.id, "object": kind, "created": head.created, "model": head.model}

    def usage(self, completion: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The sums for the whole answer; what else ``given`` ones tell is kept."""
        prompt = len(self._record.prompt_ids)
        sums = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
        return sums | {key: value for key, value in (given or {}).items() if key not in sums}

    def chunk(
        self,
        text: str,
        ids: Sequence[int],
        *,
        new_ids: Sequence[int] | None = None,
        finish: str | None = None,
        stop_reason: Any = None,
        completion: int,
        fingerprint: object = None,
    ) -> bytes:
        """The event of some text and the ids told with it; ``new_ids`` are those that were not known before."""
        choice: dict[str, Any] = {"index": 0}
        if self._chat:
            choice.update(delta={"content": text}, logprobs=None, finish_reason=finish)
            if finish:
                choice["stop_reason"] = stop_reason
        else:
            choice.update(
                text=text, logprobs=None, finish_reason=finish, stop_reason=stop_reason, prompt_token_ids=None
            )
        choice["token_ids"] = list(ids if new_ids is None else new_ids)
        event = {**self._head(), "choices": [choice]}
        if self._running_sums:
            event["usage"] = self.usage(completion, self._record.usage)
        if isinstance(fingerprint, str):
            event["system_fingerprint"] = self._record.head.fingerprint or fingerprint
        self._record.add(event)
        choice["token_ids"] = list(ids) if self.shows_ids else None
        return encode(event)

    def sums(
        self, completion: int, *, given: Mapping[str, Any] | None = None, fingerprint: object = None
    ) -> bytes:
        """The event after the last one."""
        event: dict[str, Any] = {**self._head(), "choices": [], "usage": self.usage(completion, given)}
        known = self._record.head.fingerprint or fingerprint
        if isinstance(known, str):
            event["system_fingerprint"] = known
        self._record.add(event)
        return encode(event)

    def end(self, *, text: str = "", finish: str | None = None) -> bytes:
        """All that is missing of an answer: its last text and finish unless they were told, the sums, the end."""
        record = self._record
        if record.done:
            return b""
        out = b""
        if finish is not None:
            out = self.chunk(text, (), finish=finish, completion=len(record.ids))
        if self.sums_wanted and not record.usage_told and record.prompt_ids:
            out += self.sums(len(record.ids))
        record.done = True
        return out + DONE_EVENT
