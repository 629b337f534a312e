"""Who keeps the engine's process on the VM: systemd where it can be had, else a process of its own.

Both run the same ``run.sh`` in the work directory, which leaves the engine's process number, log and exit status
in files there; so how it fares is asked in the same way.
"""

import shlex
from collections.abc import Mapping

from hedgeserve.engines.base import EngineCommand
from hedgeserve.engines.vllmscripts import AS_ROOT

UNIT = "hedgeserve-engine.service"
"""The engine's systemd unit. It lives under /run, as do its secrets: neither outlives the VM's boot."""

_STOP_S = 25

# Started through a file so that the exit status outlives the shell that saw it. The process number is written
# before the engine is executed: a second start finds it.
_RUN = """\
cd "$(dirname "$0")" || exit 1
rm -f engine.exit
echo $$ > engine.pid
exec > engine.log 2>&1 < /dev/null
if [ -f engine.env ]; then set -a; . ./engine.env; set +a; fi
{prelude}{command}
echo $? > engine.exit.new
mv engine.exit.new engine.exit
"""

# When the VM is shut down, which is how GCP ends one, systemd would end the engine at once, and with it all
# that it is answering; a signal that does nothing leaves it the time that is left. An engine that ends is not
# started again: the controller sees its exit and replaces the VM.
_UNIT_TEXT = """\
[Unit]
Description=Inference engine of a HedgeServe replica
Wants=network-online.target
After=network-online.target ssh.service sshd.service docker.service nvidia-persistenced.service

[Service]
Type=exec
{user}
EnvironmentFile=/run/hedgeserve/engine.env
ExecStart=/bin/sh {run}
Restart=no
KillMode=mixed
KillSignal=SIGCONT
TimeoutStopSec={stop_s}
OOMPolicy=continue
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity
"""

# The process of a root's unit cannot be signalled by the user, but seen.
_ALIVE = """\
alive() { [ -f engine.pid ] && [ -d "/proc/$(cat engine.pid)" ]; }
"""

_START = (
    _ALIVE
    + """\
cd {workdir} || exit 1
if alive; then echo running; exit 0; fi
rm -f engine.pid engine.exit
: > engine.log
"""
)

# `setsid` so that the engine outlives the SSH session.
_DETACH = """\
setsid sh ./run.sh > /dev/null 2>&1 < /dev/null &
echo $! > engine.pid
exit 0
"""

# Where the VM shares its kernel with others (a container, a network namespace), systemd is the host's.
_UNDER_SYSTEMD = (
    AS_ROOT
    + f"""\
may_use_systemd() {{
    command -v systemctl > /dev/null && systemctl show -p Version > /dev/null 2>&1 && as_root true 2> /dev/null &&
        [ "$(as_root readlink /proc/1/ns/net)" = "$(readlink /proc/self/ns/net)" ]
}}
if may_use_systemd; then
    set -e
    as_root install -d -m 700 /run/hedgeserve
    as_root install -m 600 engine.env /run/hedgeserve/engine.env
    rm engine.env
    as_root install -m 644 engine.service /run/systemd/system/{UNIT}
    as_root systemctl daemon-reload
    as_root systemctl reset-failed {UNIT} 2> /dev/null || true
    as_root systemctl start {UNIT}
    looks=0
    while [ ! -f engine.pid ] && [ "$looks" -lt 100 ]; do looks=$((looks + 1)); sleep 0.1; done
    if [ -f engine.pid ]; then exit 0; fi
    as_root systemctl status --no-pager {UNIT} >&2 || true
    echo "systemd started the engine's unit, but not the engine" >&2
    exit 1
fi
"""
)


def run_script(command: EngineCommand) -> str:
    """``run.sh``: runs the engine and leaves word of its end."""
    prelude = ""
    words = shlex.join(command.argv)
    if command.as_root:
        prelude = 'become_root=; [ "$(id -u)" = 0 ] || become_root="sudo -n -E"\n'
        words = f"$become_root {words}"
    return _RUN.format(prelude=prelude, command=words)


def environment_file(variables: Mapping[str, str]) -> str:
    """Variables in the one way of quoting that the shell and systemd's ``EnvironmentFile`` read alike."""
    lines = []
    for name, value in sorted(variables.items()):
        quoted = "".join(f"\\{sign}" if sign in '\\"`$' else sign for sign in value)
        lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)


def unit_text(command: EngineCommand, *, workdir: str, user: str) -> str:
    """The systemd unit that runs ``run.sh``, as ``user`` unless the command needs root."""
    run = f"{workdir}/run.sh".replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return _UNIT_TEXT.format(
        user="Environment=HOME=/root" if command.as_root else f"User={user}", run=f'"{run}"', stop_s=_STOP_S
    )


def start_script(*, workdir: str, systemd: bool) -> str:
    """Start ``run.sh`` unless it runs; under systemd where that is allowed and the VM has one of its own."""
    start = _START.replace("{workdir}", shlex.quote(workdir))
    return start + (_UNDER_SYSTEMD if systemd else "") + _DETACH


def running_script(*, workdir: str) -> str:
    """Succeeds where the engine runs."""
    return f"{_ALIVE}cd {shlex.quote(workdir)} && alive\n"


def exited_script(*, workdir: str, lines: int) -> str:
    """Prints nothing while the engine runs; then its exit status (or ``unknown``) and the end of its log."""
    return (
        f"{_ALIVE}cd {shlex.quote(workdir)} || exit 1\n"
        # In this order: the status is there before the process is gone.
        "if [ ! -f engine.exit ] && alive; then exit 0; fi\n"
        "cat engine.exit 2> /dev/null || echo unknown\n"
        f"tail -n {lines} engine.log\n"
    )
