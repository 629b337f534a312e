"""An answer in one piece, asked for as a stream so that it can be continued, and put together again. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from hedgeserve.proxy.follow import Stream
from hedgeserve.proxy.record import Record

_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_NOTHING = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))


def as_stream(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """The body that asks for the same answer as a stream, its sums included."""
    body = {**fields, **extra, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


class Collected:
    """A stream of which nothing goes to the client: its record is the answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def failure(self) -> str:
        """See :class:`Stream`."""
        return self._stream.failure

    @property
    def done(self) -> bool:
        """See :class:`Stream`."""
        return self._stream.done

    @property
    def tokens(self) -> int:
        """See :class:`Stream`."""
        return self._stream.tokens

    @property
    def complete(self) -> bool:
        """See :class:`Stream`."""
        return self._stream.complete

    def feed(self, payload: bytes) -> bytes:
        """Take the next bytes; nothing is for the client yet."""
        self._stream.feed(payload)
        return b""

    def close(self) -> bytes:
        """The stream has ended cleanly."""
        self._stream.close()
        return b""


def whole(record: Record, *, chat: bool, show_ids: bool) -> bytes:
    """What vLLM says in one piece, of an answer that has been collected."""
    texts = record.texts()
    head = record.head
    indices = sorted({*record.finished, *(index for index, _ in texts)})
    own = {index: {name: text for (of, name), text in texts.items() if of == index} for index in indices}
    ids = list(record.ids) if show_ids else None
    prompt_ids = list(record.prompt_ids) if show_ids else None
    choices: list[dict[str, Any]] = []
    for index in indices:
        finish, stop_reason = record.finished.get(index, (None, None))
        choice: dict[str, Any] = {"index": index}
        if chat:
            said = {"role": record.roles.get(index, "assistant"), "content": own[index].pop("content", "")}
            choice["message"] = {**said, **_NOTHING, **own[index]}
        else:
            choice["text"] = own[index].get("text", "")
        choice.update(logprobs=None, finish_reason=finish, stop_reason=stop_reason, token_ids=ids)
        if not chat:
            choice.update(prompt_logprobs=None, prompt_token_ids=prompt_ids)
        choice["routed_experts"] = None
        choices.append(choice)
    usage = record.usage or {}
    answer: dict[str, Any] = {
        "id": head.id,
        "object": "chat.completion" if chat else "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": {**usage, **{key: usage.get(key) for key in _DETAILS}},
    }
    if chat:
        answer.update(prompt_logprobs=None, prompt_token_ids=prompt_ids, prompt_text=None)
    answer.update(kv_transfer_params=None, ec_transfer_params=None, metrics=None)
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
