"""A long step on a VM that outlives the connection it was started over: run detached, then followed to its end.

What is known of it lies in a directory on the VM: its script, its log, its process, its exit status. Asked for
again (a connection was lost, a controller was started anew), a step that runs is followed further and one that
has succeeded since the VM's boot is found done; that goes by the script itself, word for word.
"""

import hashlib
import shlex
from dataclasses import dataclass

from hedgeserve.errors import BootstrapError
from hedgeserve.machines.ssh import Remote

_LAUNCH_TIMEOUT_S = 60.0
_FOLLOW_TIMEOUT_S = 60.0
_LAST_LINES = 5

# A failure counts for the attempt that it happened in and for its reconnections; the next attempt starts it anew.
# The process number is only believed while there is no status: by then it may be another's.
_LAUNCH = """\
umask 077
mkdir -p {directory} && cd {directory} || exit 1
cat > given
read -r boot < /proc/sys/kernel/random/boot_id
running() {{ [ ! -f status ] && [ -f pid ] && [ -d "/proc/$(cat pid)" ]; }}
known= known_boot=
[ ! -f key ] || read -r known known_boot < key
if [ "$known" = {digest} ] && [ "$known_boot" = "$boot" ]; then
    if running || [ "$(cat status 2>/dev/null)" = 0 ]; then exit 0; fi
    if [ "$(cat attempt 2>/dev/null)" = {attempt} ] && [ -f pid ]; then exit 0; fi
elif [ "$known_boot" = "$boot" ] && running; then
    kill -s KILL -- "-$(cat pid)"
fi
rm -f status pid
mv given script
echo {attempt} > attempt
echo "{digest} $boot" > key
cut -d ' ' -f 1 /proc/uptime > began
setsid sh -c 'cd {workdir} || exit 1
umask 022
sh "$1/script"
echo "$?" > "$1/status.new"
cut -d " " -f 1 /proc/uptime > "$1/ended"
mv "$1/status.new" "$1/status"' task "$PWD" > log 2>&1 < /dev/null &
echo $! > pid
"""

_FOLLOW = """\
cd {directory} || exit 1
looks=0
while [ ! -f status ] && [ -d "/proc/$(cat pid)" ] && [ "$looks" -lt {looks} ]; do
    looks=$((looks + 1))
    if [ "$looks" -lt 20 ]; then sleep 0.1; else sleep 1; fi
done
if [ ! -f status ] && [ -d "/proc/$(cat pid)" ]; then echo running; cat began; cut -d ' ' -f 1 /proc/uptime
elif [ -f status ]; then cat status began ended
else echo killed; cat began began
fi
tail -n {lines} log
"""
_LOOKS = 40

_KILL = 'cd {directory} && [ ! -f status ] && kill -s KILL -- "-$(cat pid)"'


@dataclass(frozen=True, slots=True)
class Done:
    """A step that succeeded: how long it took on the VM, and the last lines that it printed."""

    seconds: float
    last_lines: tuple[str, ...]


async def run_task(
    remote: Remote, name: str, script: str, *, workdir: str, attempt: str, timeout_s: float
) -> Done:
    """Run an idempotent POSIX shell script in ``workdir`` to its end, or follow the one that runs already.

    ``attempt`` is one word that stays the same from one connection to the next: a failure under another one is
    not taken over. Time that passed while nobody was connected counts.

    Raises:
        BootstrapError: It failed, was killed, or was not done after ``timeout_s`` (then it is ended).
    """
    directory = shlex.quote(f"{workdir}/tasks/{name}")
    digest = hashlib.sha256(script.encode()).hexdigest()[:32]
    # It stands in single quotes within single quotes.
    launch = _LAUNCH.format(
        directory=directory, digest=digest, attempt=attempt, workdir=shlex.quote(workdir).replace("'", "'\\''")
    )
    started = await remote.run(f"sh -c {shlex.quote(launch)}", stdin=script, timeout_s=_LAUNCH_TIMEOUT_S)
    if started.status != 0:
        raise BootstrapError(name, f"it could not be started on the VM: {started.last_words}")
    follow = _FOLLOW.format(directory=directory, looks=_LOOKS, lines=_LAST_LINES)
    while True:
        told = await remote.run(f"sh -c {shlex.quote(follow)}", timeout_s=_FOLLOW_TIMEOUT_S)
        state, seconds, lines = _read(name, told.stdout, told.last_words)
        words = " | ".join(lines) or "it said nothing"
        if state == "0":
            return Done(seconds, lines)
        if state == "killed":
            raise BootstrapError(name, f"it was killed on the VM; its last words: {words}")
        if state != "running":
            raise BootstrapError(name, f"it ended with status {state}: {words}")
        if seconds > timeout_s:
            await remote.run(f"sh -c {shlex.quote(_KILL.format(directory=directory))}")
            raise BootstrapError(name, f"it did not end within {timeout_s:g} s; its last words: {words}")


def _read(name: str, text: str, last_words: str) -> tuple[str, float, tuple[str, ...]]:
    """State or exit status, seconds since it began, and the last lines of its log."""
    try:
        state, began, now, *lines = text.splitlines()
        return state, max(float(now) - float(began), 0.0), tuple(line.strip() for line in lines if line.strip())
    except ValueError:
        raise BootstrapError(name, f"the VM lost track of it: {last_words or 'it says nothing'}") from None
