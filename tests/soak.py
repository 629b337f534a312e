"""The soak: steady load on a fleet that is preempted every few seconds, half of the time without a notice.

Run by hand (``make soak``), for it takes minutes. It starts ``hedgeserve serve`` as a process of its own on the
local driver, sends streamed and plain requests all the while, ends it with Ctrl-C, and then judges: every
request that had not received a byte was answered, nothing was left behind, and memory stayed flat.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

SPEC = """
[service]
name = "soak"
listen = "127.0.0.1:0"
state_dir = "{state}"

[model]
id = "demo"
engine = "demo"
args = ["--load-time", "500ms", "--tokens-per-second", "40"]

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
timeout = "5s"
initial_delay = "60s"

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


@dataclass
class Tally:
    """What became of the requests, and what the controller needed meanwhile."""

    outcomes: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)  # t, RSS MiB, tasks, descriptors


async def ask(session: aiohttp.ClientSession, url: str, number: int, tally: Tally) -> None:
    """One request; every second one is streamed."""
    stream = number % 2 == 0
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Tell me of fox number {number % 50}."}],
        "max_tokens": 30,
        "stream": stream,
    }
    begun_s = time.monotonic()
    got = b""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                tally.outcomes["refused"] += 1
                tally.unanswered.append(f"{response.status}: {(await response.text())[:200]}")
                return
            async for chunk in response.content.iter_any():
                if not got:
                    tally.first_bytes_s.append(time.monotonic() - begun_s)
                got += chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        if not got:
            tally.outcomes["unanswered"] += 1
            tally.unanswered.append(repr(error))
        else:
            tally.outcomes["broken off without a word"] += 1
        return
    tally.latencies_s.append(time.monotonic() - begun_s)
    if stream:
        whole = got.rstrip().endswith(b"data: [DONE]") and b'"error"' not in got
        tally.outcomes["streamed whole" if whole else "stream cut, said so in band"] += 1
    else:
        whole = json.loads(got)["choices"][0]["finish_reason"] in ("length", "stop")
        tally.outcomes["answered" if whole else "answer without an end"] += 1


async def offer_load(url: str, until_s: float, per_second: float, tally: Tally) -> None:
    """An open loop: requests start at a steady pace, however long the ones before take."""
    timeout = aiohttp.ClientTimeout(total=180)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        number = 0
        next_s = time.monotonic()
        while next_s < until_s:
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            group.create_task(ask(session, url, number, tally))
            number += 1
            next_s += 1 / per_second


async def watch(process: psutil.Process, socket: Path, until_s: float, tally: Tally) -> dict[str, object]:
    """Sample the controller's memory, tasks and descriptors; returns its last status."""
    status: dict[str, object] = {}
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        while time.monotonic() < until_s:
            async with session.get("http://admin/admin/v1/status") as response:
                status = await response.json()
            rss_mib = process.memory_info().rss / 2**20
            tally.samples.append((time.monotonic(), rss_mib, int(str(status["tasks"])), process.num_fds()))
            await asyncio.sleep(5)
    return status


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


async def soak(minutes: float, per_second: float, preempt_every_s: float, seed: int) -> int:
    """Run it; 0 when all is well."""
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as folder:
        state = Path(folder) / "state"
        spec = Path(folder) / "model.toml"
        spec.write_text(SPEC.format(state=state, seed=seed, preempt_every_s=preempt_every_s))
        log = (Path(folder) / "log").open("wb")
        command = [sys.executable, "-m", "hedgeserve", "serve", str(spec), "--log-format", "json"]
        controller = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        socket = state / "admin.sock"
        url = await wait_for_url(socket)
        tally = Tally()
        until_s = time.monotonic() + minutes * 60
        process = psutil.Process(controller.pid)
        _, status = await asyncio.gather(
            offer_load(url, until_s, per_second, tally), watch(process, socket, until_s, tally)
        )
        events = await find_events(socket)
        cpu_s = sum(process.cpu_times()[:2])
        controller.send_signal(signal.SIGINT)
        exit_status = await asyncio.wait_for(controller.wait(), 60)
        left = processes_of(state)
        vms_left = [path.name for path in (state / "local").iterdir()]
        log.close()
        ok = report(tally, events, status, cpu_s, exit_status, left, vms_left)
        if not ok:
            print((Path(folder) / "log").read_text()[-4000:])
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
    status: dict[str, object],
    cpu_s: float,
    exit_status: int,
    left: list[str],
    vms_left: list[str],
) -> bool:
    """Print the figures and say whether they are good."""
    total = sum(tally.outcomes.values())
    third = max(1, len(tally.samples) // 3)
    early = statistics.median(sample[1] for sample in tally.samples[:third])
    late = statistics.median(sample[1] for sample in tally.samples[-third:])
    tasks = [sample[2] for sample in tally.samples]
    descriptors = [sample[3] for sample in tally.samples]
    print(f"requests           {total}")
    for outcome, count in tally.outcomes.most_common():
        print(f"  {outcome:<28} {count}")
    for name, values in (("latency s", tally.latencies_s), ("first byte s", tally.first_bytes_s)):
        print(f"{name:<18} p50 {quantile(values, 0.5):.2f}  p99 {quantile(values, 0.99):.2f}")
    print(f"events             {dict(events)}")
    print(f"controller         CPU {cpu_s:.0f} s, RSS first third {early:.1f} MiB, last third {late:.1f} MiB")
    print(f"tasks, descriptors median {statistics.median(tasks):.0f} (last {tasks[-1]}), "
          f"{statistics.median(descriptors):.0f} (last {descriptors[-1]})")  # fmt: skip
    print(f"exit status        {exit_status}; processes left {left}; VMs left {vms_left}")
    for text in tally.unanswered[:10]:
        print("  unanswered:", text)
    half = len(tasks) // 2
    return (
        not tally.unanswered
        and tally.outcomes["broken off without a word"] == 0
        and tally.outcomes["answer without an end"] == 0
        and exit_status == 0
        and not left
        and not vms_left
        and late < early * 1.15
        and statistics.median(tasks[half:]) <= statistics.median(tasks[:half]) + 10
        and statistics.median(descriptors[half:]) <= statistics.median(descriptors[:half]) + 20
    )


def main() -> None:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--per-second", type=float, default=6)
    parser.add_argument("--preempt-every-s", type=float, default=25, help="mean, for one VM; five of them run")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(asyncio.run(soak(given.minutes, given.per_second, given.preempt_every_s, given.seed)))


if __name__ == "__main__":
    main()
