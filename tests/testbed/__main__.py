"""Runs the test-bed's tests where nothing that they do can be seen from outside, or outlive them.

    python -m tests.testbed [arguments of pytest]

The whole run gets network, process and mount namespaces of its own, as root or in a user namespace: no address of
this machine changes, no packet leaves, and when it ends (even by ``kill -9``) every VM ends with it. Where the
kernel forbids that, it says so and does nothing.
"""

import os
import shutil
import subprocess
import sys

from tests.testbed.place import INSIDE

_TOOLS = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
_NAMESPACES = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_WITHOUT_ROOT = ["--user", "--map-auto", "--map-root-user"]
# sshd insists on its directory; what is written to /run here is seen by nobody else.
_PREPARE = """\
set -e
mount -t tmpfs -o mode=755 run /run
mkdir -m 755 /run/sshd
ip link set lo up
exec "$@"
"""
# What a VM needs of the kernel, tried out: a file system of its own over this machine's, and a veth pair.
_PROBE = """\
set -e
mkdir /run/p
mount -t tmpfs p /run/p
mkdir /run/p/u /run/p/w /run/p/m
mount -t overlay p -o lowerdir=/,upperdir=/run/p/u,workdir=/run/p/w /run/p/m
ip link add p0 type veth peer name p1
"""


def command(*argv: str) -> list[str]:
    """How to run something inside namespaces of its own."""
    user = [] if os.geteuid() == 0 else _WITHOUT_ROOT
    return ["unshare", *user, *_NAMESPACES, "sh", "-c", _PREPARE, "sh", *argv]


def obstacle() -> str:
    """Why the test-bed cannot run here, as a sentence that says what to do; empty where it can."""
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if os.geteuid() != 0 and shutil.which("newuidmap") is None:
        missing.append("uidmap")
    if missing:
        return f"install {' '.join(sorted(set(missing)))} first"
    if not os.access("/usr/bin/python3", os.X_OK):
        return "the VMs use /usr/bin/python3; install python3 from the system's packages first"
    probe = subprocess.run(command("sh", "-c", _PROBE), capture_output=True, text=True, check=False)
    if probe.returncode:
        hint = "run it as root" if os.geteuid() else "a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
        why = probe.stderr.strip().splitlines()
        return (
            f"the kernel does not allow the namespaces it needs ({why[-1] if why else 'no reason told'}); {hint}"
        )
    return ""


def main(arguments: list[str]) -> int:
    """Run pytest inside; 0 as well where it cannot be done here."""
    if why := obstacle():
        print(f"test-bed: skipped: {why}", file=sys.stderr)
        return 0
    os.environ[INSIDE] = "1"
    where = [] if any(argument.startswith("tests/") for argument in arguments) else ["tests/testbed"]
    # A connection whose other end has vanished without a word cannot be closed by TLS's rules before we end.
    tolerant = ["-W", "ignore::pytest.PytestUnraisableExceptionWarning", "-W", "ignore::ResourceWarning"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "testbed", *tolerant, *arguments, *where]
    return subprocess.run(command(*pytest), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
