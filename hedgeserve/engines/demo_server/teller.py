"""Answers in vLLM's JSON: chat and text completions, whole and in chunks."""

from __future__ import annotations

import time
from typing import Any

from .generation import Piece
from .job import Job
from .tokens import decode


class Teller:
    """Puts the pieces of one answer into vLLM's JSON, key for key."""

    def __init__(self, job: Job, *, request_id: str, model: str, fingerprint: str) -> None:
        self._job = job
        self._fingerprint = fingerprint
        self._id = f"{'chatcmpl' if job.chat else 'cmpl'}-{request_id}"
        self._kind = "chat.completion" if job.chat else "text_completion"
        self._created = int(time.time())
        self._model = model
        self._count = 0

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = self._kind + ".chunk" if chunk and self._job.chat else self._kind
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._job.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + self._count, "completion_tokens": self._count}

    def _continuous_usage(self) -> dict[str, Any]:
        return {**self._usage(), "completion_tokens_details": None} if self._job.chat else self._usage()

    def _prompt_ids(self) -> list[int] | None:
        return self._job.prompt if self._job.token_ids else None

    def _prompt_text(self) -> str:
        return decode(self._job.prompt).decode("utf-8", "replace")

    def role(self) -> dict[str, Any]:
        """The chunk before the first token of a chat."""
        delta = {"role": self._job.role, "content": ""}
        chunk = self._head(chunk=True)
        chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
        if self._job.continuous_usage:
            chunk["usage"] = self._continuous_usage()
        chunk["prompt_token_ids"] = self._prompt_ids()
        chunk["prompt_text"] = self._prompt_text() if self._job.prompt_text else None
        return chunk

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of one piece."""
        job = self._job
        first = self._count == 0
        self._count += len(piece.ids)
        ids = piece.ids if job.token_ids else None
        if job.chat:
            choice = {
                "index": 0,
                "delta": {"content": piece.text},
                "logprobs": None,
                "finish_reason": piece.finish,
            }
            if piece.finish:
                choice["stop_reason"] = piece.stop_reason
        else:
            # With ids asked for, vLLM leaves the echoed text out.
            echo = self._prompt_text() if first and job.echo and not job.token_ids else ""
            prompt_ids = job.prompt if first and (job.token_ids or job.echo) else None
            choice = {
                "index": 0,
                "text": echo + piece.text,
                "logprobs": None,
                "finish_reason": piece.finish,
                "stop_reason": piece.stop_reason,
                "prompt_token_ids": prompt_ids,
            }
        choice["token_ids"] = ids
        chunk = {**self._head(chunk=True), "choices": [choice]}
        if job.continuous_usage:
            chunk["usage"] = self._continuous_usage()
        if piece.finish and not job.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return chunk

    def usage(self) -> dict[str, Any]:
        """The chunk after the last one, with the sums."""
        sums = {"choices": [], "usage": self._usage(), "system_fingerprint": self._fingerprint}
        return {**self._head(chunk=True), **sums}

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The answer in one, for a request that does not stream."""
        job, last = self._job, pieces[-1]
        ids = [number for piece in pieces for number in piece.ids]
        text = "".join(piece.text for piece in pieces)
        self._count = len(ids)
        choice: dict[str, Any] = {"index": 0}
        nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        if job.chat:
            choice["message"] = {"role": job.role, "content": text, **nothing}
        else:
            choice["text"] = (self._prompt_text() if job.echo and not job.token_ids else "") + text
        choice.update(logprobs=None, finish_reason=last.finish, stop_reason=last.stop_reason)
        choice["token_ids"] = ids if job.token_ids else None
        if not job.chat:
            choice.update(prompt_logprobs=None, prompt_token_ids=self._prompt_ids())
        choice["routed_experts"] = None
        answer = self._head(chunk=False)
        answer.update(choices=[choice], service_tier=None, system_fingerprint=self._fingerprint)
        answer["usage"] = {**self._usage(), "prompt_tokens_details": None, "completion_tokens_details": None}
        if job.chat:
            answer.update(prompt_logprobs=None, prompt_token_ids=self._prompt_ids())
            answer["prompt_text"] = self._prompt_text() if job.prompt_text else None
        answer.update(kv_transfer_params=None, ec_transfer_params=None, metrics=None)
        return answer
