"""Answers in vLLM's JSON: chat and text completions, whole and in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from .choice import Choice
from .generation import Piece
from .job import Job


class Teller:
    """Puts the pieces of one answer into vLLM's JSON, key for key."""

    def __init__(self, job: Job, *, request_id: str, model: str, fingerprint: str) -> None:
        self._job = job
        self._choices = [Choice(job, share) for share in job.shares]
        self._fingerprint = fingerprint
        self._id = f"{'chatcmpl' if job.chat else 'cmpl'}-{request_id}"
        self._kind = "chat.completion" if job.chat else "text_completion"
        self._created = int(time.time())
        self._model = model

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = self._kind + ".chunk" if chunk and self._job.chat else self._kind
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self, prompt: int, choices: list[Choice]) -> dict[str, Any]:
        count = sum(choice.count for choice in choices)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + count,
            "completion_tokens": count,
        }
        if self._job.reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": sum(one.thoughts for one in choices)}
        return usage

    def _continuous_usage(self, index: int) -> dict[str, Any]:
        usage = self._usage(len(self._job.shares[index].prompt), [self._choices[index]])
        if self._job.chat:
            usage.setdefault("completion_tokens_details", None)
        return usage

    def roles(self) -> Iterator[dict[str, Any]]:
        """The chunks before the first token of a chat, one for each choice."""
        for index, choice in enumerate(self._choices):
            chunk = {**self._head(chunk=True), "choices": [choice.role()]}
            if self._job.continuous_usage:
                chunk["usage"] = self._continuous_usage(index)
            chunk["prompt_token_ids"] = choice.prompt_ids()
            chunk["prompt_text"] = choice.prompt_text() if self._job.prompt_text else None
            yield chunk

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """The chunk of one piece; None where there is nothing to tell."""
        choice = self._choices[piece.index].chunk(piece)
        if choice is None:
            return None
        chunk = {**self._head(chunk=True), "choices": [choice]}
        if self._job.continuous_usage:
            chunk["usage"] = self._continuous_usage(piece.index)
        if piece.finish and not self._job.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return chunk

    def usage(self) -> dict[str, Any]:
        """The chunk after the last one, with the sums."""
        usage = self._usage(self._job.prompt_tokens, self._choices)
        sums = {"choices": [], "usage": usage, "system_fingerprint": self._fingerprint}
        return {**self._head(chunk=True), **sums}

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The answer in one, for a request that does not stream."""
        job = self._job
        told = [
            choice.whole([piece for piece in pieces if piece.index == index])
            for index, choice in enumerate(self._choices)
        ]
        answer = self._head(chunk=False)
        answer.update(choices=told, service_tier=None, system_fingerprint=self._fingerprint)
        nothing = dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))
        usage = self._usage(job.prompt_tokens, self._choices)
        details = usage.pop("completion_tokens_details", None)
        answer["usage"] = {**usage, **nothing, "completion_tokens_details": details}
        if job.chat:
            first = self._choices[0]
            answer.update(prompt_logprobs=None, prompt_token_ids=first.prompt_ids())
            answer["prompt_text"] = first.prompt_text() if job.prompt_text else None
        answer.update(kv_transfer_params=None, ec_transfer_params=None, metrics=None)
        return answer
