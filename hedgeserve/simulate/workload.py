"""The requests of a simulation: when each arrives, how long its prompt is, how long its answer."""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hedgeserve.errors import HedgeServeError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST = 10_000_000
"""Requests that one workload may hold: about half a GB while it is being simulated."""
_MOST_TOKENS = 100_000_000
_QUANTILES = (0.1, 0.5, 0.9, 0.99)


class WorkloadError(HedgeServeError):
    """Requests that cannot be used: says in which file and row, what is wrong, what to do."""


def seeded(label: str) -> np.random.Generator:
    """A generator that is the same for the same label, on every machine."""
    return np.random.default_rng(random.Random(label).getrandbits(128))


@dataclass(frozen=True, slots=True)
class TokenMix:
    """How many tokens prompts and answers have, drawn independently of each other.

    With a ``sample`` of (prompt, output) pairs, whole pairs are drawn from it. Else both are log-normal with the
    given medians and sigmas (of the logarithm), rounded, at least 1 and at most the given maxima. The defaults
    have the medians, the P90 and the largest values of the Azure LLM inference trace 2023, conversation
    (Patel et al., "Splitwise", ISCA '24; CC BY 4.0): 19,366 requests.
    """

    prompt_median: float = 1020.0
    prompt_sigma: float = 0.77
    prompt_max: int = 14050
    output_median: float = 129.0
    output_sigma: float = 0.93
    output_max: int = 1000
    sample: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        least = min(self.prompt_median, self.output_median, self.prompt_max, self.output_max)
        spread = (self.prompt_sigma, self.output_sigma)
        if not (least > 0 and all(0 <= sigma < math.inf for sigma in spread)):
            raise WorkloadError(
                f"{self} cannot be drawn from; medians and maxima must be above 0, sigmas at least 0"
            )

    @classmethod
    def of(cls, workload: "Workload") -> "TokenMix":
        """The very pairs of a recorded workload."""
        if not len(workload):
            raise WorkloadError(f"{workload.name} has no requests to take token counts from")
        return cls(
            sample=tuple(zip(workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True))
        )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Tokens of so many prompts, and of their answers."""
        if self.sample:
            pairs = np.array(self.sample, dtype=np.int64)[rng.integers(len(self.sample), size=count)]
            return pairs[:, 0].copy(), pairs[:, 1].copy()
        prompts = rng.lognormal(math.log(self.prompt_median), self.prompt_sigma, count)
        outputs = rng.lognormal(math.log(self.output_median), self.output_sigma, count)
        return (
            np.clip(np.rint(prompts), 1, self.prompt_max).astype(np.int64),
            np.clip(np.rint(outputs), 1, self.output_max).astype(np.int64),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A workload in a few numbers; the quantiles are P10, P50, P90 and P99 in tokens."""

    name: str
    count: int
    duration_s: float
    rate_per_s: float
    prompt_tokens: tuple[float, ...]
    output_tokens: tuple[float, ...]

    def __str__(self) -> str:
        head = f"{self.name}: {self.count} requests in {self.duration_s:g} s ({self.rate_per_s:.3g}/s)"
        if not self.count:
            return head
        prompt, output = ("/".join(f"{each:.0f}" for each in q) for q in (self.prompt_tokens, self.output_tokens))
        return f"{head}; P10/P50/P90/P99: prompt {prompt}, answer {output} tokens"


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in the order of their arrival, in seconds since the workload began.

    ``duration_s`` is the length after which the workload begins anew, at least the last arrival. ``client`` says
    which of several clients sends a request (all 0 where nobody knows); only a round robin that each client does
    for itself asks for it. The arrays are read-only.

    Raises:
        WorkloadError: The arrays differ in length, arrivals go back in time or are no numbers, or a count is
            negative.
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    duration_s: float
    client: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        client = self.client if len(self.client) or not count else np.zeros(count, dtype=np.int64)
        for key, values, kind in (
            ("arrival_s", self.arrival_s, np.float64),
            ("prompt_tokens", self.prompt_tokens, np.int64),
            ("output_tokens", self.output_tokens, np.int64),
            ("client", client, np.int64),
        ):
            own = np.array(values, dtype=kind)
            if len(own) != count:
                raise WorkloadError(f"{self.name}: {count} arrivals but {len(own)} of {key}; give one for each")
            if count and not (np.isfinite(own).all() and own.min() >= 0):
                raise WorkloadError(f"{self.name}: {key} must be numbers of at least 0")
            own.setflags(write=False)
            object.__setattr__(self, key, own)
        if count > 1 and bool((np.diff(self.arrival_s) < 0).any()):
            raise WorkloadError(f"{self.name}: arrivals go back in time; sort the requests by arrival_s")
        last_s = float(self.arrival_s[-1]) if count else 0.0
        if not (math.isfinite(self.duration_s) and self.duration_s > 0 and self.duration_s >= last_s):
            raise WorkloadError(
                f"{self.name}: {self.duration_s:g} s do not hold the last arrival at {last_s:g} s; "
                "give a longer duration"
            )

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Requests per second, over the whole duration."""
        return len(self) / self.duration_s

    def window(self, start_s: float, length_s: float) -> "Workload":
        """The requests that arrive in ``length_s`` from ``start_s`` on, its begin being the new 0.

        Past the end of the workload it begins anew, as often as needed.

        Raises:
            WorkloadError: The start is negative, or the length is not positive, or too many requests come of it.
        """
        if not (math.isfinite(start_s) and start_s >= 0 and math.isfinite(length_s) and length_s > 0):
            raise WorkloadError(
                f"no window lasts {length_s:g} s from {start_s:g} s on; start at 0 s or later and last longer"
            )
        first = math.floor(start_s / self.duration_s)
        rounds = range(first, math.floor((start_s + length_s) / self.duration_s) + 1)
        _hold(self.name, len(self) * len(rounds), "take a shorter window")
        index = np.tile(np.arange(len(self)), len(rounds))
        shift_s = np.repeat(np.array(rounds, dtype=np.float64) * self.duration_s - start_s, len(self))
        arrival_s = self.arrival_s[index] + shift_s
        # A request at the very end of one round may, by rounding, come out behind the first of the next.
        inside = np.flatnonzero((arrival_s >= 0) & (arrival_s < length_s))
        inside = inside[np.argsort(arrival_s[inside], kind="stable")]
        return self._chosen(index[inside], arrival_s[inside], length_s)

    def scaled(self, factor: float, seed: int = 0) -> "Workload":
        """About ``factor`` times as many requests in the same time, with the same ups and downs.

        Time is not compressed, which would make the day shorter. Below 1 each request is kept with this
        probability. Above 1 each is repeated; a copy comes at a random time before the next request, since
        copies at one instant would be bursts that nobody sent.

        Raises:
            WorkloadError: The factor is not a positive number, or too many requests come of it.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise WorkloadError(f"a rate cannot be scaled by {factor:g}; give a number above 0")
        _hold(self.name, len(self) * factor, "scale it by less")
        rng = seeded(f"{seed}/scaled")
        copies = _about(np.full(len(self), factor), rng)
        index = np.repeat(np.arange(len(self)), copies)
        gap_s = np.diff(self.arrival_s, append=self.duration_s)
        original = np.ones(len(index), dtype=bool)
        original[1:] = index[1:] != index[:-1]
        arrival_s = self.arrival_s[index] + np.where(original, 0.0, rng.random(len(index)) * gap_s[index])
        order = np.argsort(arrival_s, kind="stable")
        name = f"{self.name} x {factor:g}"
        return replace(self._chosen(index[order], arrival_s[order], self.duration_s), name=name)

    def describe(self) -> Summary:
        """Its rate, its size and its tokens."""
        prompts, outputs = (
            tuple(float(each) for each in np.quantile(tokens, _QUANTILES)) if len(self) else ()
            for tokens in (self.prompt_tokens, self.output_tokens)
        )
        return Summary(self.name, len(self), self.duration_s, self.rate_per_s, prompts, outputs)

    def _chosen(self, index: npt.NDArray[np.intp], arrival_s: Floats, duration_s: float) -> "Workload":
        return Workload(
            self.name,
            arrival_s,
            self.prompt_tokens[index],
            self.output_tokens[index],
            duration_s,
            self.client[index],
        )


def poisson(
    rate_per_s: float,
    duration_s: float,
    seed: int,
    clients: int = 1,
    tokens: TokenMix | None = None,
    *,
    in_step: int = 1,
) -> Workload:
    """Requests at random: a Poisson process of ``rate_per_s``, sent in equal shares by ``clients``.

    The clients are independent of each other. Those of the simulator published with the paper (arXiv
    2411.01438) are not: by a slip with their seeds all three send at the same instants in its first window, two
    of them in all others. ``in_step`` is the number of clients that do so here, to reproduce its numbers.

    Raises:
        WorkloadError: A rate, duration or number of clients is not positive, or too many requests come of it.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0 and math.isfinite(duration_s) and duration_s > 0):
        raise WorkloadError(f"no requests come of {rate_per_s:g}/s for {duration_s:g} s; give numbers above 0")
    if clients < 1 or not 1 <= in_step <= clients:
        raise WorkloadError(
            f"{in_step} of {clients} clients cannot be in step; give 1 or more, at most all clients"
        )
    name = f"poisson {rate_per_s:g}/s"
    _hold(name, rate_per_s * duration_s, "ask for a lower rate or a shorter time")
    times: list[Floats] = []
    for client in range(clients):
        rng = seeded(f"{seed}/client/{0 if client < in_step else client}")
        count = int(rng.poisson(rate_per_s / clients * duration_s))
        times.append(np.sort(rng.random(count)) * duration_s)
    arrival_s = np.concatenate(times)
    order = np.argsort(arrival_s, kind="stable")
    client_of = np.repeat(np.arange(clients), [len(each) for each in times])
    prompts, outputs = (tokens or TokenMix()).draw(len(arrival_s), seeded(f"{seed}/tokens"))
    return Workload(name, arrival_s[order], prompts, outputs, duration_s, client_of[order])


def read_requests(
    path: str | PathLike[str],
    *,
    seed: int = 0,
    scale: float = 1.0,
    cap_per_minute: float | None = None,
    tokens: TokenMix | None = None,
) -> Workload:
    """The requests of a CSV file, whose header says which of three shapes it has.

    - ``TIMESTAMP,ContextTokens,GeneratedTokens``: the Azure LLM inference traces; the first request is at 0 s.
      Time stamps are read to the microsecond; those without a zone are UTC.
    - ``Time (min),Requests``: counts per minute (the Azure Functions 2019 trace in the form that "MAF" has in the
      paper). A count is divided by ``scale``, then cut at ``cap_per_minute``; what is left of a whole number is
      a request with that probability. The requests of a minute are spread over it uniformly at random. Minutes
      that are missing have none. The simulator published with the paper spreads one trace minute over many
      (its rate is per second, its gaps are not), so that its day has far fewer requests; here a minute is a
      minute.
    - ``arrival_s,prompt_tokens,output_tokens``: your own; either token column, or both, may be left out.

    Token counts that the file does not have are drawn from ``tokens``, with ``seed``. The workload lasts until
    the end of the last minute, or one mean gap past the last arrival.

    Raises:
        WorkloadError: The file cannot be read, has none of these shapes, or has a row that cannot be used: the
            message names the row as an editor counts it.
    """
    source = Path(path)
    if not (math.isfinite(scale) and scale > 0):
        raise WorkloadError(f"counts cannot be divided by a scale of {scale:g}; give a number above 0")
    if cap_per_minute is not None and not (math.isfinite(cap_per_minute) and cap_per_minute > 0):
        raise WorkloadError(f"a cap of {cap_per_minute:g} requests per minute is none; give a number above 0")
    mix = tokens or TokenMix()
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = _Table(source, file)
            columns = table.columns
            if {"time (min)", "requests"} <= columns.keys():
                return _per_minute(table, scale, cap_per_minute, seed, mix)
            if scale != 1.0 or cap_per_minute is not None:
                raise WorkloadError(
                    f"{source}: scale and cap_per_minute are for counts per minute; use Workload.scaled instead"
                )
            if {"timestamp", "contexttokens", "generatedtokens"} <= columns.keys():
                return _azure(table)
            if "arrival_s" in columns:
                return _own(table, seed, mix)
            raise table.unknown_shape()
    except OSError as error:
        raise WorkloadError(f"{source}: cannot be read: {error.strerror}; check the path") from error


class _Table:
    """A CSV file with a header, row by row."""

    def __init__(self, source: Path, lines: Iterator[str]) -> None:
        self.source = source
        self._reader = csv.reader(lines, strict=True)
        header = next(self._rows(), None)
        if header is None:
            raise WorkloadError(f"{source}: the file is empty; it needs a header, such as arrival_s, and rows")
        names = [name.strip().lower() for name in header]
        for name in names:
            if names.count(name) > 1:
                raise self.error(f'the column "{name}" is there twice; remove one of them')
        self.columns = {name: index for index, name in enumerate(names)}

    def __iter__(self) -> Iterator[list[str]]:
        any_row = False
        for row in self._rows():
            if not row:
                continue
            if len(row) != len(self.columns):
                raise self.error(f"{len(row)} values for {len(self.columns)} columns; write one for each")
            any_row = True
            yield row
        if not any_row:
            raise WorkloadError(f"{self.source}: a header but no requests; add a row for each")

    def error(self, what: str) -> WorkloadError:
        return WorkloadError(f"{self.source}, row {self._reader.line_num}: {what}")

    def unknown_shape(self) -> WorkloadError:
        known = ("timestamp", "contexttokens", "generatedtokens", "time (min)", "requests", "arrival_s")
        near = [
            f'"{name}" for "{match[0]}"' for name in self.columns if (match := get_close_matches(name, known, 1))
        ]
        return WorkloadError(
            f"{self.source}: no requests under the header {', '.join(self.columns)}; it must have "
            '"TIMESTAMP,ContextTokens,GeneratedTokens", "Time (min),Requests", or "arrival_s" with or without '
            '"prompt_tokens,output_tokens"' + (f" (found {', '.join(near)})" if near else "")
        )

    def number(self, text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self.error(f'{name} is "{text}"; write a number') from None
        if not (math.isfinite(value) and value >= 0):
            raise self.error(f"{name} is {text}; write a number of at least 0")
        return value

    def count(self, text: str, name: str, most: int) -> int:
        try:
            value = int(text)
        except ValueError:
            raise self.error(f'{name} is "{text}"; write a whole number') from None
        if not 0 <= value <= most:
            raise self.error(f"{name} is {text}; write a number from 0 to {most}")
        return value

    def _rows(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except UnicodeDecodeError as error:
            raise WorkloadError(
                f"{self.source}, after row {self._reader.line_num}: not UTF-8 text; save the file as UTF-8"
            ) from error
        except csv.Error as error:
            raise self.error(f"not CSV ({error}); write values with commas between them") from error


def _azure(table: _Table) -> Workload:
    stamp, prompt, output = (table.columns[name] for name in ("timestamp", "contexttokens", "generatedtokens"))
    times: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    first: datetime | None = None
    for row in table:
        try:
            at = datetime.fromisoformat(row[stamp].strip())
        except ValueError:
            raise table.error(f'TIMESTAMP is "{row[stamp]}"; write it as 2023-11-16 18:15:46.6805900') from None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        first = first or at
        _append(table, times, (at - first).total_seconds(), "TIMESTAMP")
        prompts.append(table.count(row[prompt], "ContextTokens", _MOST_TOKENS))
        outputs.append(table.count(row[output], "GeneratedTokens", _MOST_TOKENS))
    return _recorded(table, times, np.array(prompts), np.array(outputs))


def _own(table: _Table, seed: int, mix: TokenMix) -> Workload:
    known = ("arrival_s", "prompt_tokens", "output_tokens")
    for name in table.columns:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f'did you mean "{near[0]}"?' if near else "remove it"
            raise WorkloadError(f'{table.source}: a column "{name}" is not known; {hint}')
    given: dict[str, list[int]] = {name: [] for name in known[1:] if name in table.columns}
    times: list[float] = []
    for row in table:
        _append(table, times, table.number(row[table.columns["arrival_s"]], "arrival_s"), "arrival_s")
        for name, values in given.items():
            values.append(table.count(row[table.columns[name]], name, _MOST_TOKENS))
    prompts, outputs = mix.draw(len(times), seeded(f"{seed}/tokens"))
    if "prompt_tokens" in given:
        prompts = np.array(given["prompt_tokens"])
    if "output_tokens" in given:
        outputs = np.array(given["output_tokens"])
    return _recorded(table, times, prompts, outputs)


def _per_minute(table: _Table, scale: float, cap: float | None, seed: int, mix: TokenMix) -> Workload:
    minutes: list[float] = []
    counts: list[int] = []
    for row in table:
        minute = table.count(row[table.columns["time (min)"]], "Time (min)", 2**40)
        if minutes and minute <= minutes[-1]:
            raise table.error(f"minute {minute} comes after minute {minutes[-1]:g}; sort the rows, one a minute")
        _append(table, minutes, minute, "Time (min)")
        counts.append(table.count(row[table.columns["requests"]], "Requests", 2**53))
    wanted = np.minimum(np.array(counts) / scale, math.inf if cap is None else cap)
    _hold(str(table.source), float(wanted.sum()), f"scale them down: every count is divided by {scale:g} now")
    rng = seeded(f"{seed}/minutes")
    per_minute = _about(wanted, rng)
    minute_of = np.repeat(np.array(minutes), per_minute)
    arrival_s = np.sort((minute_of + rng.random(len(minute_of))) * 60.0)
    prompts, outputs = mix.draw(len(arrival_s), seeded(f"{seed}/tokens"))
    return Workload(table.source.stem, arrival_s, prompts, outputs, (minutes[-1] + 1) * 60.0)


def _append(table: _Table, times: list[float], time: float, name: str) -> None:
    if times and time < times[-1]:
        raise table.error(f"{name} goes back in time; sort the rows by it")
    if len(times) >= _MOST:
        raise table.error(f"more than {_MOST} rows; cut the file")
    times.append(time)


def _recorded(table: _Table, times: list[float], prompts: Ints, outputs: Ints) -> Workload:
    last_s = times[-1]
    mean_gap_s = (last_s - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Workload(table.source.stem, np.array(times), prompts, outputs, last_s + (mean_gap_s or 1.0))


def _about(wanted: Floats, rng: np.random.Generator) -> Ints:
    """Whole numbers, in the mean as large as wanted: the rest of each is one more with that probability."""
    whole = np.floor(wanted)
    return (whole + (rng.random(len(wanted)) < wanted - whole)).astype(np.int64)


def _hold(name: str, count: float, remedy: str) -> None:
    if count > _MOST:
        raise WorkloadError(f"{name}: about {count:.3g} requests, more than {_MOST} can be simulated; {remedy}")
