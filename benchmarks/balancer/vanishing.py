"""A replica with 500 streams vanishes without a word, while as many run on the others."""

import signal
import time

from benchmarks.balancer.asking import NotReadyError, put, replicas, wait_until
from benchmarks.balancer.measured import Measurement, report
from benchmarks.balancer.measuring import load, said
from benchmarks.balancer.places import REPLICAS, Cores
from benchmarks.balancer.processes import cost

STREAMS = 500
_VICTIM = 0
_TOKENS, _OTHERS_TOKENS = 480, 400
_INTERVAL_US = 50_000
_MOST_S = 60.0
_WAIT_S = 15.0
_APART = 10_000
"""Between the numbers of the two loads' streams, so that none can pass for one of the others."""


def only_the_victim_serves() -> None:
    """Have all replicas but one still load, before the target is started: so the first streams have one place."""
    for replica in range(REPLICAS):
        if replica != _VICTIM:
            put(replica, "loading")


def vanish(port: int, pid: int, cores: Cores) -> Measurement:
    """The scenario, on a target that knows only the victim so far.

    The streams come in two loads: those of the victim first, then, when the other replicas serve, those of the
    others. Only these count for the gap between chunks, from the moment at which the victim vanishes until each
    of its streams has been taken up by another replica.

    Raises:
        NotReadyError: The streams cannot be brought to where they belong.
        LoadError: The load generator gave no figures.
    """
    words = ["--stream", "--connections", str(STREAMS), "--requests", str(STREAMS), "--ramp-ms", "500"]
    words += ["--interval-us", str(_INTERVAL_US)]
    victims_words = [*words, "--events", str(_TOKENS)]
    others_words = [*words, "--events", str(_OTHERS_TOKENS), "--first-stream", str(_APART)]
    with load(port, victims_words, _MOST_S, cores) as victims:
        wait_until("500 streams on the victim", lambda: _open(_VICTIM) >= STREAMS, most_s=_WAIT_S)
        before = [replica["requests"] for replica in replicas()]
        for replica in range(REPLICAS):
            put(replica, "serving")
        wait_until("the others are found to serve", lambda: _asked(before), most_s=_WAIT_S)
        time.sleep(0.5)
        with load(port, others_words, _MOST_S, cores) as others:
            wait_until("500 streams on the others", lambda: _elsewhere() >= STREAMS, most_s=_WAIT_S)
            time.sleep(1.0)
            begun = cost(pid)
            others.send_signal(signal.SIGUSR1)
            put(_VICTIM, "vanish")
            taken_s = _taken_up()
            others.send_signal(signal.SIGUSR2)
            spent = cost(pid).since(begun)
            moved = report(said(victims, _MOST_S))
            beside = report(said(others, _MOST_S))
    faults = [
        f"{STREAMS - beside['done']} of the others ({beside['example']})" if beside["done"] != STREAMS else "",
        f"{STREAMS - moved['done']} of the victim's ({moved['example']})" if moved["done"] != STREAMS else "",
    ]
    figures = {
        "continued": float(moved["done"]),
        "lost": float(STREAMS - moved["done"]),
        "others_gap_p99_ms": beside["gap"]["p99_ms"],
        "others_gap_most_ms": beside["gap"]["most_ms"],
        "cpu_s": spent.cpu_s,
    }
    if taken_s is not None:
        figures["taken_up_s"] = taken_s
    return Measurement(figures, "; ".join(filter(None, faults)))


def _open(replica: int) -> int:
    return replicas()[replica]["streams"]


def _elsewhere() -> int:
    return sum(one["streams"] for number, one in enumerate(replicas()) if number != _VICTIM)


def _asked(before: list[int]) -> bool:
    """Whether each replica has been asked for something since: a probe's first token."""
    return all(one["requests"] > told for one, told in list(zip(replicas(), before, strict=True))[1:])


def _taken_up() -> float | None:
    """How long it takes until the others have the victim's streams too; None where they never do."""
    try:
        return wait_until("the streams go on", lambda: _elsewhere() >= 2 * STREAMS, most_s=_WAIT_S, pause_s=0.05)
    except NotReadyError:
        return None
