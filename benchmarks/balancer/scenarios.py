"""What is measured: the loads, and which targets each is put on."""

from collections.abc import Sequence
from dataclasses import dataclass

OURS, DIRECT = "hedgeserve", "direct"
INTERPRETED = "interpreted"
"""HedgeServe again, its data path not compiled."""
NGINX, HAPROXY = "nginx", "haproxy"
SGLANG, VLLM, SKYSERVE = "sglang-router", "vllm-router", "skyserve"
PEERS = (NGINX, SGLANG, VLLM, SKYSERVE, HAPROXY, INTERPRETED)
DEFAULT_PEERS = (NGINX, SGLANG, VLLM, SKYSERVE, INTERPRETED)

EVERY_TARGET = frozenset({OURS, *PEERS})
_PLAIN = frozenset({OURS, NGINX, HAPROXY})


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. ``load`` are the words for the load generator, which ends after ``most_s`` in any case."""

    name: str
    title: str
    load: tuple[str, ...]
    most_s: float
    targets: frozenset[str]
    streams: int = 0
    """Streams that must come to their end, each exact; 0: answers in one piece."""
    tls: bool = False
    memory_at_s: float | None = None
    """When the target's memory is read."""
    once: bool = False
    """In the first round only."""
    complete: bool = True
    """Whether an unfinished stream is a fault; where it is not, the load is cut off on purpose."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PACED = "--stream --connections 512 --requests 512 --events 200 --interval-us 20000 --ramp-ms 500"
_CROWD = "--stream --without-ids --connections 1500 --requests 1500"

SCENARIOS: Sequence[Scenario] = (
    Scenario("json32", "JSON, 32 connections", _words("--connections 32 --events 200"), 3.0, EVERY_TARGET),
    Scenario(
        "latency50",
        "50 requests/s",
        _words("--connections 8 --rate 50 --events 200"),
        4.0,
        _PLAIN | {DIRECT},
    ),
    Scenario(
        "paced512", "SSE, 512 streams at 20 ms", _words(f"{_PACED} --without-ids"), 9.0, EVERY_TARGET, streams=512
    ),
    Scenario(
        "paced512-ids",
        "SSE, 512 streams at 20 ms, token ids in the events",
        _words(_PACED),
        9.0,
        frozenset({OURS, INTERPRETED}),
        streams=512,
    ),
    Scenario(
        "paced512-tls",
        "SSE, 512 streams at 20 ms, TLS to the client",
        _words(f"{_PACED} --without-ids --tls"),
        9.0,
        frozenset({OURS, NGINX}),
        streams=512,
        tls=True,
    ),
    Scenario(
        "burst1500",
        "1,500 streams opened at once",
        _words(f"{_CROWD} --events 100 --interval-us 20000"),
        8.0,
        _PLAIN,
        streams=1500,
    ),
    Scenario(
        "memory1000",
        "1,000 open streams",
        _words("--stream --connections 1000 --requests 1000 --events 50 --interval-us 100000 --ramp-ms 1000"),
        9.0,
        _PLAIN,
        streams=1000,
        memory_at_s=4.5,
    ),
    Scenario(
        "slow1000",
        "1,000 slow readers",
        _words(
            "--stream --connections 1000 --requests 1000 --events 800 --ramp-ms 500 --slow-ms 250 --slow-bytes 256"
        ),
        7.0,
        _PLAIN,
        memory_at_s=6.0,
        once=True,
        complete=False,
    ),
    Scenario(
        "ramp1500",
        "1,500 streams opened within half a second",
        _words(f"{_CROWD} --events 120 --interval-us 20000 --ramp-ms 500"),
        9.0,
        _PLAIN,
        streams=1500,
    ),
    Scenario(
        "burst1500-fast",
        "1,500 streams opened at once, twice as fast",
        _words(f"{_CROWD} --events 200 --interval-us 10000"),
        8.0,
        _PLAIN,
        streams=1500,
    ),
)

VANISH = "vanish"
"""A replica with 500 streams vanishes silently; it has a module of its own."""

NAMES = (*(scenario.name for scenario in SCENARIOS), VANISH)
