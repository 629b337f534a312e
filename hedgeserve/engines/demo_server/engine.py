"""What stands in for a GPU: the pace, the room for so many answers at a time, and the counters."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from .faults import Fault
from .generation import Generation, Piece
from .job import Job
from .settings import Settings
from .watch import Watch


class Engine:
    """Runs generations at the promised pace, a bounded number at a time, and counts what it does."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_s = time.monotonic()
        self.running = 0
        self.waiting = 0
        self._cached_tokens = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._finished = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self._changed = threading.Condition()

    @property
    def loaded(self) -> bool:
        """Whether the make-believe weights have been loaded."""
        return time.monotonic() >= self.started_s + self.settings.load_time_s

    @property
    def cache_usage(self) -> float:
        """The share of the make-believe KV cache that running requests hold."""
        room = self.settings.max_model_len * min(self.settings.max_num_seqs, 64)
        return min(1.0, self._cached_tokens / room)

    def run(self, job: Job, watch: Watch, fault: Fault | None) -> Generator[Piece, None, None]:
        """The pieces of an answer, of its choices in turn, each when it is due; raises :class:`ClientGone`.

        Whoever stops early must close the iterator: that is when the request stops counting as running.
        """
        self._admit(watch)
        held = job.prompt_tokens
        with self._changed:
            self._prompt_tokens += held
            self._cached_tokens += held
        try:
            for piece in self._paced(job, watch, fault):
                with self._changed:
                    self._generated_tokens += len(piece.ids)
                    self._cached_tokens += len(piece.ids)
                    held += len(piece.ids)
                    if piece.finish:
                        self._finished[piece.finish] += 1
                yield piece
        finally:
            with self._changed:
                self._cached_tokens -= held
                self.running -= 1
                self._changed.notify()

    def _admit(self, watch: Watch) -> None:
        with self._changed:
            self.waiting += 1
            try:
                while self.running >= self.settings.max_num_seqs:
                    self._changed.wait(0.05)
                    watch.wait(0)
                self.running += 1
            finally:
                self.waiting -= 1

    def _paced(self, job: Job, watch: Watch, fault: Fault | None) -> Iterator[Piece]:
        settings = self.settings
        rate = settings.tokens_per_second
        going = [Generation(job, share) for share in job.shares]
        count = 0
        begun_s = time.monotonic()
        while going:
            # The first token goes out alone, as with vLLM's --stream-interval.
            tokens = settings.stream_interval if count else 1
            if rate:
                watch.wait(begun_s + (count + tokens) / rate - time.monotonic())
                # Late? Then this chunk holds all that is due, as chunks of a busy vLLM do.
                tokens = max(tokens, int((time.monotonic() - begun_s) * rate) - count)
            else:
                watch.wait(0)
            if fault is not None:
                tokens = min(tokens, fault.after_tokens - count)
                if tokens <= 0:
                    end = fault.strike(watch)
                    yield from (replace(end, index=generation.index) for generation in going)
                    return
            count += tokens
            for generation in tuple(going):
                piece = generation.step(tokens)
                yield piece
                if piece.finish:
                    going.remove(generation)

    def metrics(self) -> str:
        """The counters in Prometheus' text format, under vLLM's names."""
        rows: list[tuple[str, str, str, float]] = [
            ("num_requests_running", "gauge", "", self.running),
            ("num_requests_waiting", "gauge", "", self.waiting),
            ("kv_cache_usage_perc", "gauge", "", self.cache_usage),
            ("prompt_tokens_total", "counter", "", self._prompt_tokens),
            ("generation_tokens_total", "counter", "", self._generated_tokens),
        ]
        for reason, count in self._finished.items():
            rows.append(("request_success_total", "counter", f'finished_reason="{reason}",', count))
        lines = []
        for number, (name, kind, label, value) in enumerate(rows):
            if number == 0 or rows[number - 1][0] != name:
                family = name[: -len("_total")] if kind == "counter" else name
                lines += [f"# HELP vllm:{family} {name} of the demo engine.", f"# TYPE vllm:{family} {kind}"]
            labels = f'engine="0",{label}model_name="{self.settings.names[0]}"'
            lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
        return "\n".join(lines) + "\n"
