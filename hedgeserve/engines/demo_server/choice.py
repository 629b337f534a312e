"""One choice of an answer in vLLM's JSON, whole and in chunks."""

from __future__ import annotations

from typing import Any

from .generation import Piece
from .job import Job, Share
from .logprobs import Mark, chat_logprobs, text_logprobs
from .markup import Splitter, split
from .tokens import THINK, THINK_END, decode

_DELTA = ("content", "reasoning", "tool_calls")
_NOTHING = ("refusal", "annotations", "audio", "function_call")


class Choice:
    """Puts the pieces of one choice into JSON, key for key."""

    def __init__(self, job: Job, share: Share) -> None:
        self._job = job
        self._share = share
        self._splitter: Splitter | None = None
        if job.parser:
            self._splitter = Splitter(reasoning=job.reasoning, calls=job.parses_calls)
        # Ids and log-probabilities would give away the thoughts that nobody is to see.
        self._secret = not job.include_reasoning and self._splitter is not None
        self._called = False
        self._thinking = False
        self._offset = 0
        self._begun = False
        self.count = 0
        self.thoughts = 0  # tokens between the marks of thinking

    def role(self) -> dict[str, Any]:
        """The choice of the chunk before the first token of a chat."""
        delta = {"role": self._job.role, "content": ""}
        return {"index": self._share.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def prompt_text(self) -> str:
        """The prompt as text."""
        return decode(self._share.prompt).decode("utf-8", "replace")

    def prompt_ids(self) -> list[int] | None:
        """The prompt's ids, where they were asked for."""
        return self._share.prompt if self._job.token_ids else None

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """The choice of the chunk of one piece; None where the piece adds nothing that a client is to see."""
        self._note(piece.ids)
        first, self._begun = not self._begun, True
        ids = piece.ids if self._job.token_ids and not self._secret else None
        logprobs = None if self._secret else self._logprobs(piece.marks)
        if self._job.chat:
            choice = self._chat_chunk(piece, logprobs)
            if choice is None:
                return None
        else:
            # With ids asked for, vLLM leaves the echoed text out.
            echo = self.prompt_text() if first and self._job.echo and not self._job.token_ids else ""
            choice = {
                "index": piece.index,
                "text": echo + piece.text,
                "logprobs": logprobs,
                "finish_reason": piece.finish,
                "stop_reason": piece.stop_reason,
                "prompt_token_ids": self._share.prompt
                if first and (self._job.token_ids or self._job.echo)
                else None,
            }
        choice["token_ids"] = ids
        return choice

    def _chat_chunk(self, piece: Piece, logprobs: dict[str, Any] | None) -> dict[str, Any] | None:
        job = self._job
        delta: dict[str, Any] | None = {"content": piece.text}
        if self._splitter is not None:
            delta = self._splitter.feed(piece.text)
            self._called = self._called or bool(delta and delta.get("tool_calls"))
            if delta is not None and not job.include_reasoning:
                delta = {**delta, "reasoning": None} if delta.get("content") or delta.get("tool_calls") else None
        if delta is None:
            if piece.finish is None and logprobs is None and (not job.token_ids or self._secret):
                return None
            delta = {}
        if delta.get("tool_calls") and not job.tools.several and job.tools.functions:
            delta["tool_calls"] = [call for call in delta["tool_calls"] if call["index"] == 0]
        choice: dict[str, Any] = {
            "index": piece.index,
            "delta": {key: delta[key] for key in _DELTA if key in delta},
            "logprobs": logprobs,
            "finish_reason": piece.finish,
        }
        if piece.finish:
            called = self._called and not job.tools.named and piece.finish == "stop"
            choice.update(finish_reason="tool_calls" if called else piece.finish, stop_reason=piece.stop_reason)
        return choice

    def _note(self, ids: list[int]) -> None:
        self.count += len(ids)
        if not self._job.reasoning:
            return
        for number in ids:
            self._thinking = number == THINK or (self._thinking and number != THINK_END)
            self.thoughts += self._thinking and number != THINK

    def _logprobs(self, marks: tuple[Mark, ...]) -> dict[str, Any] | None:
        if self._job.logprobs is None:
            return None
        if self._job.chat:
            return chat_logprobs(marks, self._job.logprobs)
        told = text_logprobs(marks, self._offset)
        self._offset += sum(len(mark.token) for mark in marks)
        return told

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The choice in one, for a request that does not stream."""
        job, last = self._job, pieces[-1]
        ids = [number for piece in pieces for number in piece.ids]
        text = "".join(piece.text for piece in pieces)
        self._note(ids)
        finish = last.finish
        choice: dict[str, Any] = {"index": self._share.index}
        if job.chat:
            choice["message"], called = self._message(text)
            if (called and not job.tools.forced) or (job.tools.choice == "required" and finish == "stop"):
                finish = "tool_calls"
        else:
            choice["text"] = (self.prompt_text() if job.echo and not job.token_ids else "") + text
        marks = tuple(mark for piece in pieces for mark in piece.marks)
        choice["logprobs"] = None if self._secret else self._logprobs(marks)
        choice.update(finish_reason=finish, stop_reason=last.stop_reason)
        choice["token_ids"] = ids if job.token_ids and not self._secret else None
        if not job.chat:
            choice.update(prompt_logprobs=None, prompt_token_ids=self.prompt_ids())
        choice["routed_experts"] = None
        return choice

    def _message(self, text: str) -> tuple[dict[str, Any], bool]:
        job = self._job
        reasoning, content, calls = split(text, reasoning=job.reasoning, calls=job.parses_calls)
        if job.tools.forced:
            content = content or ""
        message = {"role": job.role, "content": content, **dict.fromkeys(_NOTHING)}
        if calls:
            message["tool_calls"] = calls if job.tools.several or not job.tools.functions else calls[:1]
        message["reasoning"] = reasoning if job.include_reasoning else None
        return message, bool(calls)
