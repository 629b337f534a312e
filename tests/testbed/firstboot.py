"""Runs inside a VM in miniature as its first process: a small cloud-init that ends by becoming ``sshd``.

It reads what the cloud handed to the VM (``/run/seed.json``) and does what cloud-init would do with it. A key of
the user-data that it does not know ends the boot, so that nothing is believed to have happened that did not.
Standard library only; it never runs on a machine of anybody's.
"""

import base64
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

SSHD_CONFIG = """\
Include /etc/ssh/sshd_config.d/*.conf
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
MaxStartups 100:30:200
MaxSessions 100
PrintMotd no
UseDNS no
LogLevel ERROR
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
"""
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
"""
# Once the SSH server listens.
FINISH = """\
until grep -q ':0016 .* 0A ' /proc/net/tcp; do sleep 0.02; done
sh /run/script
touch /run/booted
"""
# What a cloud's image has and this machine may not. `sudo` works for everybody, as for an image's first user.
COMMANDS = {
    "sudo": """\
while :; do case "$1" in
  -u) shift 2;;
  --) shift; break;;
  -*) shift;;
  *) break;;
esac; done
while case "$1" in [A-Za-z_]*=*) :;; *) false;; esac; do export "$1"; shift; done
exec /usr/local/lib/become --reuid=0 --regid=0 --clear-groups -- "$@"
""",
    "cloud-init": """\
while [ "$2" = --wait ] || [ "$3" = --wait ]; do [ -f /run/booted ] && break; sleep 0.1; done
if [ -f /run/booted ]; then echo "status: done"; else echo "status: running"; fi
""",
    # Without PAM, which an image has, sshd takes the missing password of a new user for a lock.
    "useradd": """/usr/sbin/useradd "$@" && sed -i 's/:!:/:*:/' /etc/shadow\n""",
    # The end of process 1 is the end of the VM.
    "shutdown": "kill -TERM 1\n",
    "poweroff": "kill -TERM 1\n",
    "halt": "kill -TERM 1\n",
    # There is no systemd here but for those who restart the SSH server.
    "systemctl": """\
case "$*" in
  *poweroff*|*halt*) kill -TERM 1;;
  "restart ssh"*) kill -HUP 1;;
  *) echo "there is no systemd here" >&2; exit 1;;
esac
""",
}


def write(path: str, content: bytes, mode: int, owner: str = "root:root") -> None:
    """A file with this mode from its first byte on."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    user, _, group = owner.partition(":")
    shutil.chown(path, user, group or user)


def make_user(name: str, keys: list[str]) -> None:
    """A user with a home directory who may log in with these keys."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        number = 1000 + len(Path("/etc/passwd").read_text().splitlines())
        with open("/etc/passwd", "a") as file:
            file.write(f"{name}:x:{number}:{number}::/home/{name}:/bin/bash\n")
        with open("/etc/shadow", "a") as file:
            file.write(f"{name}:*:19000:0:99999:7:::\n")
        with open("/etc/group", "a") as file:
            file.write(f"{name}:x:{number}:\n")
        account = pwd.getpwnam(name)
        os.mkdir(account.pw_dir, 0o755)
        os.chown(account.pw_dir, number, number)
    ssh = f"{account.pw_dir}/.ssh"
    os.makedirs(ssh, mode=0o700, exist_ok=True)
    os.chown(ssh, account.pw_uid, account.pw_gid)
    with open(f"{ssh}/authorized_keys", "a") as file:
        file.writelines(f"{key}\n" for key in keys)
    os.chown(f"{ssh}/authorized_keys", account.pw_uid, account.pw_gid)


def content_of(file: dict) -> bytes:
    """What ``write_files`` wants in a file."""
    text, encoding = file.get("content", ""), file.get("encoding", "text/plain")
    if encoding in ("b64", "base64"):
        return base64.b64decode(text)
    if encoding != "text/plain":
        sys.exit(f"firstboot: write_files: encoding {encoding} is not known")
    return text.encode()


def script_of(commands: list) -> str:
    """``runcmd`` as a shell script: a list is one command, a string a line of shell."""
    quote = lambda word: "'" + str(word).replace("'", "'\\''") + "'"  # noqa: E731
    lines = [line if isinstance(line, str) else " ".join(map(quote, line)) for line in commands]
    return "\n".join(lines) + "\n"


def configure(config: dict) -> str:
    """Do what the user-data says; returns the script that is to run once the VM is up."""
    for key in config.pop("ssh_keys", {}).items():
        if key[0] != "ed25519_private":
            sys.exit(f"firstboot: ssh_keys: {key[0]} is not known")
        write("/etc/ssh/ssh_host_ed25519_key", key[1].encode(), 0o600)
    for user in config.pop("users", []):
        if isinstance(user, dict):
            make_user(user["name"], user.get("ssh_authorized_keys", []))
    for file in config.pop("write_files", []):
        write(
            file["path"], content_of(file), int(file.get("permissions", "0644"), 8), file.get("owner", "root:root")
        )
    boot, run = config.pop("bootcmd", []), config.pop("runcmd", [])
    for harmless in ("ssh_deletekeys", "ssh_genkeytypes", "disable_root", "ssh_pwauth", "package_update",
                     "package_upgrade", "preserve_hostname", "manage_etc_hosts", "chpasswd", "no_ssh_fingerprints",
                     "ssh"):  # fmt: skip
        config.pop(harmless, None)
    if config:
        sys.exit(f"firstboot: not known: {', '.join(config)}")
    return script_of(boot) + script_of(run)


def main() -> None:
    """Boot."""
    seed = json.loads(Path("/run/seed.json").read_text())
    socket.sethostname(seed["name"])
    write("/etc/hostname", seed["name"].encode(), 0o644)
    for path in [*Path("/etc/ssh").glob("ssh_host_*"), *Path("/etc/ssh/sshd_config.d").glob("*")]:
        path.unlink()
    write("/etc/passwd", PASSWD.encode(), 0o644)
    write("/etc/shadow", b"root:*:19000:0:99999:7:::\nsshd:*:19000::::::\n", 0o640)
    write("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
    write("/etc/ssh/sshd_config", SSHD_CONFIG.encode(), 0o644)
    shutil.copy("/usr/bin/setpriv", "/usr/local/lib/become")
    os.chmod("/usr/local/lib/become", 0o4755)
    for name, script in COMMANDS.items():
        write(f"/usr/local/sbin/{name}", f"#!/bin/sh\n{script}".encode(), 0o755)
    if seed["authorized_key"]:
        make_user(seed["ssh_user"], [seed["authorized_key"]])
    script = ""
    if seed["user_data"]:
        head, _, body = seed["user_data"].partition("\n")
        if head.startswith("#!"):
            script = seed["user_data"]
        elif head.strip() == "#cloud-config":
            script = configure(json.loads(body))
        else:
            sys.exit(f"firstboot: the user-data is neither cloud-config nor a script: {head[:40]!r}")
    os.unlink("/run/seed.json")
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["HOME"] = "/root"
    write("/run/script", script.encode(), 0o700)
    subprocess.Popen(["/bin/sh", "-c", FINISH], start_new_session=True)
    if not os.path.exists("/etc/ssh/ssh_host_ed25519_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"], check=True
        )
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e"])


if __name__ == "__main__":
    main()
