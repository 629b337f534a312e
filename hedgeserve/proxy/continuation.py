"""Going on with an answer by its token ids, on a replica that has never heard of it. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from hedgeserve.proxy.approach import COMPLETIONS
from hedgeserve.proxy.boundary import Boundary, find
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.resumed import Resumed
from hedgeserve.proxy.steps import Call, Finished, GiveUp, Resume, Step
from hedgeserve.proxy.stops import Stops, most_held_back, stop_strings
from hedgeserve.proxy.wrapping import Wrapping

# What made the prompt or names what a continuation has none of; all else is passed on, known to us or not.
_NOT_PASSED = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "best_of",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "echo",
        "functions",
        "function_call",
        "include_reasoning",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_tokens",
        "mm_processor_kwargs",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prompt",
        "reasoning_effort",
        "response_format",
        "return_prompt_text",
        "seed",
        "store",
        "stream",
        "stream_options",
        "suffix",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncate_prompt_tokens",
        "truncation_side",
    }
)


class Continuation:
    """Finds where to go on, from ``most`` ids at most, then goes on there.

    ``greedy``: the same ids are followed by the same ids.
    """

    def __init__(
        self,
        record: Record,
        fields: Mapping[str, Any],
        wrapping: Wrapping,
        *,
        expects_tokens: int | None,
        most: int,
        greedy: bool,
    ) -> None:
        self._record = record
        self._fields = fields
        self._wrap = wrapping
        self._expects = expects_tokens
        self._stops = stop_strings(fields.get("stop"))
        self._keeps_stop = fields.get("include_stop_str_in_output") is True
        self._told = record.text()
        # Held-back text comes again where the same ids do; where they are drawn, we hold it back and match.
        self._matches = bool(self._stops) and not greedy
        # With the stop string in the output nothing is held back: what may be its beginning has been told.
        room = most_held_back(self._stops) if self._keeps_stop else 0
        self._search = find(
            record.prompt_ids,
            record.ids,
            self._told,
            most=most,
            room=room,
            beyond=self._matches,
            shows_special=fields.get("skip_special_tokens") is False,
        )
        self._at: Boundary | None = None
        self._asked = False

    def start(self) -> Step:
        """The first question about the text of ids."""
        return self._ask(None)

    def got(self, status: int, body: bytes) -> Step:
        """The next question, or the continuation itself."""
        if self._asked:
            return GiveUp(f"the replica refused to continue it ({status})")
        path, key = ("/detokenize", "prompt") if self._at is None else ("/tokenize", "max_model_len")
        if status != 200:
            return GiveUp(f"the replica's {path} answered {status}")
        try:
            told = json.loads(body)[key]
        except (ValueError, KeyError, TypeError, RecursionError):
            told = None
        if self._at is None and isinstance(told, str):
            return self._ask(told)
        if self._at is not None and isinstance(told, int):
            return self._resume(self._at, told - len(self._record.prompt_ids) - self._at.count)
        return GiveUp(f"the replica's {path} told no {key}")

    def _ask(self, text: str | None) -> Step:
        try:
            ids = next(self._search) if text is None else self._search.send(text)
        except StopIteration as stop:
            boundary: Boundary | None = stop.value
            if boundary is None:
                return GiveUp("its token ids and its text do not match beyond doubt")
            if self._expects is not None:
                return self._resume(boundary, self._expects - boundary.count)
            # To the end of the context: /v1/completions has no word for that (null is 16), it must be a number.
            self._at = boundary
            return Call("/tokenize", _dumped({"model": self._model(), "prompt": "a"}))
        return Call("/detokenize", _dumped({"model": self._model(), "tokens": ids}))

    def _model(self) -> Any:
        return self._fields.get("model") or self._record.head.model

    def _resume(self, at: Boundary, left: int) -> Step:
        held_back = at.text[len(self._told) :]
        if left <= 0:
            self._record.rewind_ids(at.count)
            return Finished(self._wrap.end(text=held_back, finish="length"))
        self._asked = True
        if self._matches:
            stops = Stops(self._stops, keep=self._keeps_stop, before=at.text, held_back=len(held_back))
            stream = Resumed(self._record, self._wrap, at, stops=stops, min_tokens=self._least())
        else:
            most = 0 if self._keeps_stop else most_held_back(self._stops)
            stream = Resumed(self._record, self._wrap, at, held_back=most)
        return Resume(COMPLETIONS, self._body(at, left), stream)

    def _least(self) -> int:
        least = self._fields.get("min_tokens")
        return least if isinstance(least, int) else 0

    def _body(self, at: Boundary, left: int) -> bytes:
        passed = {key: value for key, value in self._fields.items() if key not in _NOT_PASSED}
        body: dict[str, Any] = {
            **passed,
            "model": self._model(),
            "prompt": [*self._record.prompt_ids, *self._record.ids[: at.count]],
            "max_tokens": left,
            "stream": True,
            "return_token_ids": True,
        }
        if (least := self._least() - at.count) > 0:
            body["min_tokens"] = least
        if self._matches:  # a stop string that is all new ends it there, too; nothing is held back twice
            body["include_stop_str_in_output"] = True
        if self._wrap.sums_wanted:
            body["stream_options"] = {"include_usage": True}
        return _dumped(body)


def _dumped(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
