"""The soak: answers on a fleet that is preempted all the time, each held against the twin that nobody interrupted.

Run by hand (``make soak``), for it takes minutes. It starts ``hedgeserve serve`` as a process of its own on the
local driver and sends requests of every kind at random times, while VMs go with a notice, without one, or
silently: their processes are frozen, so that sockets stay open and nobody says goodbye. An engine of the soak's
own, with the same weights, is asked once for each kind of request and left alone. In the end: nothing lost,
nothing corrupted, nothing left behind, memory flat.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.demo_process import demo_process
from tests.streams import BY_IDS, BY_REPLAY, read

SPEC = """
[service]
name = "soak"
listen = "127.0.0.1:0"
state_dir = "{state}"

[model]
id = "demo"
engine = "demo"
args = ["--load-time", "500ms", "--tokens-per-second", "40", "--enable-auto-tool-choice"]

[replicas]
count = 3

[hedge]
overprovision = 2
rebalance_below = 1
retry_delay = "1s"
on_demand_hold = "5s"
notice_poll = "500ms"

[probe]
interval = "1s"
timeout = "2s"
initial_delay = "60s"

[failover]
silence = "1s"
collect_above = 40

[timeouts]
connect = "1s"

[[pools]]
cloud = "local"
zones = ["east/a", "east/b", "west/a", "west/b"]

[local]
seed = {seed}
boot_time = "500ms"
preempt_every = "{preempt_every_s}s"
notice = "4s"
no_notice_share = 0.5
launch_failure = 0.05
zones = [
    {{ zone = "east/a", dialect = "aws" }},
    {{ zone = "east/b", dialect = "gcp" }},
    {{ zone = "west/a", dialect = "azure" }},
]
"""
LENGTHS = (20, 60, 140)
IN_ONE_PIECE = 0.25


@dataclass(frozen=True)
class Kind:
    """One kind of request, and what its answer must be."""

    name: str
    path: str
    body: dict[str, Any]
    twin: Any


@dataclass
class Tally:
    """What became of the requests, and what the controller needed meanwhile."""

    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    frozen: int = 0
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)  # t, RSS MiB, tasks, descriptors


def essence(answer: dict[str, Any]) -> Any:
    """What must be equal in an answer in one piece: all but ids and times."""
    choices = json.loads(json.dumps(answer["choices"]))
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls") or ():
            call["id"] = ""
    return choices, answer["usage"]


async def find_kinds(session: aiohttp.ClientSession, url: str) -> list[Kind]:
    """Every kind of request in every length, streamed and in one piece, with its twin."""
    kinds = []
    for name, (path, body) in (BY_IDS | BY_REPLAY).items():
        for length in LENGTHS:
            asked = {**body, "max_tokens": length}
            if "min_tokens" in body:
                asked["min_tokens"] = min(body["min_tokens"], length)
            async with session.post(url + path, json=asked) as response:
                kinds.append(Kind(name, path, asked, read(await response.read()).same))
            whole = {key: value for key, value in asked.items() if key not in ("stream", "stream_options")}
            async with session.post(url + path, json=whole) as response:
                kinds.append(Kind(f"{name}, in one piece", path, whole, essence(await response.json())))
    return kinds


async def ask(session: aiohttp.ClientSession, url: str, kind: Kind, tally: Tally) -> None:
    """One request, compared with its twin."""
    begun_s = last_s = time.monotonic()
    got, pause_s = b"", 0.0
    try:
        async with session.post(url + kind.path, json=kind.body) as response:
            if response.status != 200:
                tally.outcomes["refused"] += 1
                tally.bad.append(f"{kind.name}: {response.status}: {(await response.text())[:200]}")
                return
            async for chunk in response.content.iter_any():
                now_s = time.monotonic()
                if not got:
                    tally.first_bytes_s.append(now_s - begun_s)
                else:
                    pause_s = max(pause_s, now_s - last_s)
                last_s = now_s
                got += chunk
            request_id = response.headers["x-request-id"]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        tally.outcomes["broken off" if got else "unanswered"] += 1
        tally.bad.append(f"{kind.name}: {error!r} after {len(got)} bytes")
        return
    tally.latencies_s.append(time.monotonic() - begun_s)
    if "stream" not in kind.body:
        same, error = essence(json.loads(got)) == kind.twin, ""
        outcome = "in one piece, equal to its twin"
    else:
        told = read(got)
        same, error = told.same == kind.twin, "; ".join(told.errors)
        outcome = "streamed, equal to its twin"
        tally.pauses_s.append(pause_s)
    if error:
        tally.outcomes["an honest error in the stream"] += 1
        tally.bad.append(f"{kind.name} ({request_id}): {error}")
    elif not same:
        tally.outcomes["CORRUPTED"] += 1
        tally.bad.append(f"{kind.name} ({request_id}): differs from its twin: {got[-300:]!r}")
    else:
        tally.outcomes[outcome] += 1


async def offer_load(
    url: str, kinds: list[Kind], given: argparse.Namespace, dice: random.Random, tally: Tally
) -> None:
    """An open loop: requests start at random times (Poisson), however long the ones before take."""
    streamed = [kind for kind in kinds if "stream" in kind.body]
    whole = [kind for kind in kinds if "stream" not in kind.body]
    timeout = aiohttp.ClientTimeout(total=180)
    until_s = time.monotonic() + given.minutes * 60
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        number, next_s = 0, time.monotonic()
        while next_s < until_s and (not given.streams or number < given.streams):
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            kind = dice.choice(whole if dice.random() < IN_ONE_PIECE else streamed)
            group.create_task(ask(session, url, kind, tally))
            number += 1
            next_s += dice.expovariate(given.per_second)


async def freeze(state: Path, socket: Path, every_s: float, dice: random.Random, tally: Tally) -> None:
    """Now and then a VM vanishes as real ones do: it says nothing any more, and its sockets stay open."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket))) as session:
        while True:
            await asyncio.sleep(dice.expovariate(1 / every_s))
            async with session.get("http://admin/admin/v1/status") as response:
                status = await response.json()
            ready = [one["id"] for one in status["replicas"] if one["state"] == "ready"]
            if len(ready) < 2:
                continue
            chosen = dice.choice(ready)
            told = f"{state}/local/{chosen}"
            for process in psutil.process_iter(["cmdline"]):
                try:
                    words = " ".join(process.info["cmdline"] or []) + " ".join(process.environ().values())
                    if f"{told}/" in words + "/" or process.cwd().startswith(told):
                        process.send_signal(signal.SIGSTOP)
                        tally.frozen += 1
                except (psutil.Error, OSError):
                    continue


async def watch(process: psutil.Process, socket: Path, tally: Tally) -> None:
    """Sample the controller's memory, tasks and descriptors until cancelled."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket))) as session:
        while True:
            async with session.get("http://admin/admin/v1/status") as response:
                status = await response.json()
            rss_mib = process.memory_info().rss / 2**20
            tally.samples.append((time.monotonic(), rss_mib, int(str(status["tasks"])), process.num_fds()))
            await asyncio.sleep(5)


async def find_metrics(url: str) -> dict[str, float]:
    """What the balancer counted of failover."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    wanted = ("resumptions_total", "streams_moved_total", "replayed_tokens_total", "answer_tokens_total")
    wanted += ("upstream_failures_total",)
    return {
        name.removeprefix("hedgeserve_"): float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if name.removeprefix("hedgeserve_").partition("{")[0] in wanted and float(value)
    }


async def find_events(socket: Path) -> Counter[str]:
    """How often the fleet was preempted, by what its journal says."""
    kinds: Counter[str] = Counter()
    after = 1
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket))) as session:
        while True:
            url = f"http://admin/admin/v1/events?after={after}&limit=1000"
            async with session.get(url) as response:
                events = (await response.json())["events"]
            if not events:
                return kinds
            for event in events:
                after = event["id"]
                kinds[event["kind"]] += 1
                if event["kind"] == "gone" and event["data"]["gone"] == "preempted":
                    kinds["gone: preempted"] += 1


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def processes_of(state: Path) -> list[str]:
    """Processes that name the state directory in their command line or environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            told = " ".join(process.info["cmdline"] or []) + " ".join(process.environ().values())
        except (psutil.Error, OSError):
            continue
        if str(state) in told and process.pid != os.getpid():
            found.append(f"{process.pid}: {' '.join(process.info['cmdline'] or [])[:120]}")
    return found


async def soak(given: argparse.Namespace) -> int:
    """Run it; 0 when all is well."""
    dice = random.Random(given.seed)
    with (
        tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder,
        demo_process("--enable-auto-tool-choice") as engine,
    ):
        async with aiohttp.ClientSession() as session:
            kinds = await find_kinds(session, engine.url)
        state = Path(folder) / "state"
        spec = Path(folder) / "model.toml"
        spec.write_text(SPEC.format(state=state, seed=given.seed, preempt_every_s=given.preempt_every_s))
        log = (Path(folder) / "log").open("wb")
        command = [sys.executable, "-m", "hedgeserve", "serve", str(spec), "--log-format", "json"]
        controller = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        socket = state / "admin.sock"
        url = await wait_for_url(socket)
        tally = Tally()
        process = psutil.Process(controller.pid)
        beside = [
            asyncio.create_task(watch(process, socket, tally)),
            asyncio.create_task(freeze(state, socket, given.freeze_every_s, dice, tally)),
        ]
        await offer_load(url, kinds, given, dice, tally)
        for task in beside:
            task.cancel()
        for failed in await asyncio.gather(*beside, return_exceptions=True):
            if not isinstance(failed, asyncio.CancelledError):
                tally.bad.append(f"the soak itself: {failed!r}")
        events, metrics = await find_events(socket), await find_metrics(url)
        cpu_s = sum(process.cpu_times()[:2])
        controller.send_signal(signal.SIGINT)
        exit_status = await asyncio.wait_for(controller.wait(), 60)
        left = processes_of(state)
        vms_left = [path.name for path in (state / "local").iterdir()]
        log.close()
        ok = report(tally, events, metrics, cpu_s, exit_status, left, vms_left)
        if not ok:
            kept = shutil.copy(Path(folder) / "log", tempfile.mkdtemp(prefix="soak-failed-"))
            print("the controller's log:", kept)
        return 0 if ok else 1


async def wait_for_url(socket: Path) -> str:
    """The endpoint, once a first replica is ready."""
    for _ in range(600):
        await asyncio.sleep(0.1)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket))) as session,
                session.get("http://admin/admin/v1/status") as response,
            ):
                status = await response.json()
        except aiohttp.ClientError:
            continue
        if status["ready"]:
            return str(status["url"])
    raise SystemExit("no replica became ready within a minute")


def report(
    tally: Tally,
    events: Counter[str],
    metrics: dict[str, float],
    cpu_s: float,
    exit_status: int,
    left: list[str],
    vms_left: list[str],
) -> bool:
    """Print the figures and say whether they are good."""
    third = max(1, len(tally.samples) // 3)
    early = statistics.median(sample[1] for sample in tally.samples[:third])
    late = statistics.median(sample[1] for sample in tally.samples[-third:])
    tasks = [sample[2] for sample in tally.samples]
    descriptors = [sample[3] for sample in tally.samples]
    print(f"requests           {sum(tally.outcomes.values())}")
    for outcome, count in tally.outcomes.most_common():
        print(f"  {outcome:<32} {count}")
    named = (
        ("latency s", tally.latencies_s),
        ("first byte s", tally.first_bytes_s),
        ("longest pause s", tally.pauses_s),
    )
    for name, values in named:
        print(
            f"{name:<18} p50 {quantile(values, 0.5):.2f}  p99 {quantile(values, 0.99):.2f}"
            f"  most {max(values, default=0):.2f}"
        )
    print(f"events             {dict(events)}; processes frozen {tally.frozen}")
    for name, value in metrics.items():
        print(f"  {name:<60} {value:.0f}")
    print(f"controller         CPU {cpu_s:.0f} s, RSS first third {early:.1f} MiB, last third {late:.1f} MiB")
    print(
        f"tasks, descriptors median {statistics.median(tasks):.0f} (last {tasks[-1]}), "
        f"{statistics.median(descriptors):.0f} (last {descriptors[-1]})"
    )
    print(f"exit status        {exit_status}; processes left {left}; VMs left {vms_left}")
    for text in tally.bad[:10]:
        print("  bad:", text)
    half = len(tasks) // 2
    return (
        not tally.bad
        and exit_status == 0
        and not left
        and not vms_left
        and late < early * 1.25
        and statistics.median(tasks[half:]) <= statistics.median(tasks[:half]) + 20
        and statistics.median(descriptors[half:]) <= statistics.median(descriptors[:half]) + 60
    )


def main() -> None:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--streams", type=int, default=0, help="end after so many requests; 0: when time is up")
    parser.add_argument("--per-second", type=float, default=12)
    parser.add_argument("--preempt-every-s", type=float, default=25, help="mean, for one VM; five of them run")
    parser.add_argument("--freeze-every-s", type=float, default=30, help="mean time between silent ends of a VM")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(soak(parser.parse_args())))


if __name__ == "__main__":
    main()
