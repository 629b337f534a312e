"""The soak: steady load on a fleet of which a VM is taken every few seconds, and no answer may show it.

Run by hand (``make soak``), for it takes minutes. It starts ``hedgeserve serve`` as a process of its own on the
local driver and asks for answers of every kind, most of them streams. VMs are taken with a notice, without one,
and in silence. Each answer is compared with its twin, which an engine gave that was left alone. In the end Ctrl-C
stops the service: nothing may be left of it, and its memory must not have grown.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.soaking.answers import twins
from tests.soaking.load import Tally, offer_load
from tests.soaking.report import End, print_report, problems
from tests.soaking.watching import Watched, processes_of, read_metrics, read_weather, wait_for_url, watch

_STOP_S = 60.0

SPEC = """
[service]
name = "soak"
listen = "127.0.0.1:0"
state_dir = "{state}"

[model]
id = "demo"
engine = "demo"
args = ["--load-time", "500ms", "--tokens-per-second", "60", "--enable-auto-tool-choice"]

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
notice = "6s"
no_notice_share = 0.6
vanish_share = 0.5
vanish_seen_after = "15s"
launch_failure = 0.05
zones = [
    {{ zone = "east/a", dialect = "aws" }},
    {{ zone = "east/b", dialect = "gcp" }},
    {{ zone = "west/a", dialect = "azure" }},
]
"""


async def soak(given: argparse.Namespace, folder: Path) -> bool:
    """Run it; whether all is well."""
    state, spec, log = folder / "state", folder / "model.toml", folder / "log"
    spec.write_text(SPEC.format(state=state, seed=given.seed, preempt_every_s=given.preempt_every_s))
    tally, watched = Tally(), Watched()
    async with twins() as expected:
        with log.open("wb") as out:
            command = [sys.executable, "-m", "hedgeserve", "serve", str(spec), "--log-format", "json"]
            controller = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
        process, socket = psutil.Process(controller.pid), state / "admin.sock"
        try:
            url = await wait_for_url(socket)
            watching = asyncio.create_task(watch(process, socket, watched))
            begun_s = time.monotonic()
            await offer_load(
                url,
                expected,
                tally,
                per_second=given.per_second,
                seed=given.seed,
                until_s=float("inf") if given.streams else begun_s + given.minutes * 60,
                streams=given.streams,
            )
            took_s = time.monotonic() - begun_s
            watching.cancel()
            watched.metrics = await read_metrics(url)
            watched.cpu_s = sum(process.cpu_times()[:2])
        finally:
            exit_status = await _stop(controller)
    watched.weather = read_weather(log)
    end = End(exit_status, processes_of(state), [path.name for path in (state / "local").iterdir()])
    print_report(tally, watched, end, took_s=took_s)
    found = problems(tally, watched, end)
    for problem in found:
        print("FAILED:", problem)
    return not found


async def _stop(controller: asyncio.subprocess.Process) -> int | None:
    """Its exit status after Ctrl-C; None where it had to be killed."""
    if controller.returncode is None:
        controller.send_signal(signal.SIGINT)
    try:
        return await asyncio.wait_for(controller.wait(), _STOP_S)
    except TimeoutError:
        controller.kill()
        await controller.wait()
        return None


def main() -> None:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="how long requests are sent (%(default)g)")
    parser.add_argument("--streams", type=int, help="how many requests are sent; in place of --minutes")
    parser.add_argument("--per-second", type=float, default=16, help="mean of the arrivals (%(default)g)")
    parser.add_argument("--preempt-every-s", type=float, default=25, help="mean, for one VM; five of them run")
    parser.add_argument("--seed", type=int, default=1, help="of the weather and of the questions (%(default)s)")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    well = asyncio.run(soak(given, folder))
    if well:
        shutil.rmtree(folder)
    else:
        print(f"the log and the journal are kept in {folder}")
    sys.exit(not well)


if __name__ == "__main__":
    main()
