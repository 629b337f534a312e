"""OpenSSH's ``sshd`` as the SSH server of a local VM: whether it can run here, and its configuration."""

import os
import pwd
import shutil
from pathlib import Path

from hedgeserve.drivers.localcloud.processes import MARKER_VARIABLE
from hedgeserve.drivers.localcloud.record import VmFiles, VmRecord

_USUAL_PLACES = "/usr/sbin:/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_NO_SHELLS = frozenset({"nologin", "false"})
_ROOT_DIRECTORY = Path("/run/sshd")


def find_sshd() -> str | None:
    """Absolute path of ``sshd``, looked for in ``$PATH`` and where administrators' programs are kept."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_USUAL_PLACES}")


def user_name() -> str:
    """Name of the user that this process runs as; ``vm`` where the system has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "vm"


def sshd_refusal(sshd: str | None, directory: Path) -> str | None:
    """Why ``sshd`` cannot run VMs kept in this directory as the current user, as a sentence; None: it can."""
    if sshd is None:
        return "there is no sshd on this machine; install openssh-server"
    if not os.access(sshd, os.X_OK):
        return f"{sshd} is not there or cannot be run; install openssh-server"
    if set('"\n') & set(str(directory)):
        return f"sshd cannot be told of a path with a quotation mark in it ({str(directory)!r})"
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        return f"user id {os.getuid()} has no name in the system's user database, which sshd asks for"
    if os.path.basename(account.pw_shell) in _NO_SHELLS:
        return f"user {account.pw_name} has the login shell {account.pw_shell}, with which no command can run"
    return _root_refusal() if os.getuid() == 0 else None


def _root_refusal() -> str | None:
    """Run by root, ``sshd`` separates privileges (which needs a directory) and reads the shadow file."""
    try:
        facts = _ROOT_DIRECTORY.stat()
    except OSError:
        return f"sshd run by root needs {_ROOT_DIRECTORY}, which is not there; mkdir -m 755 {_ROOT_DIRECTORY}"
    if facts.st_uid != 0 or facts.st_mode & 0o022:
        return f"sshd run by root needs {_ROOT_DIRECTORY} to be root's and writable by nobody else"
    try:
        shadow = Path("/etc/shadow").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if any(line.startswith("root:!") for line in shadow.splitlines()):
        return "sshd lets nobody log in as root, whose account is locked (passwd -S root)"
    return None


def sshd_config(record: VmRecord, files: VmFiles) -> str:
    """The whole configuration: this VM's address, key and users, nothing of the machine's own ``sshd``."""

    def quoted(path: Path) -> str:
        return f'"{path}"'

    return "\n".join(
        (
            f"ListenAddress {record.address}",
            f"Port {record.ssh_port}",
            f"HostKey {quoted(files.host_key)}",
            # This one setting expands % sequences.
            f"AuthorizedKeysFile {quoted(files.authorized_keys)}".replace("%", "%%"),
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PidFile none",
            "PrintMotd no",
            "PrintLastLog no",
            "LogLevel ERROR",
            "MaxStartups 1000:30:2000",
            "MaxSessions 1000",
            "LoginGraceTime 30",
            # Without the marker, whatever is started over SSH could not be found when the VM ends. The home is
            # the VM's own, so that no start-up file of the user's shell has a say (or takes a lock and is killed
            # with it). One line for both: sshd reads only the first.
            f'SetEnv {MARKER_VARIABLE}={files.marker} "HOME={files.home}"',
            "Subsystem sftp internal-sftp",
            "",
        )
    )
