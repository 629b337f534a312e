"""What a cloud VM is told at its first boot: our host key, our key to log in with, its dead-man switch. Pure.

By cloud-init where the image has it, which is done before the SSH server starts; else by a start-up script, which
runs later: until it has, the SSH server may present a host key of its own.
"""

import json
import shlex

from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.drivers.deadman import install_script

_HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
# A name of its own: what makes an image's usual host keys anew at its first boot must not overwrite ours.
_SCRIPT_HOST_KEY = "/etc/ssh/hedgeserve_host_ed25519_key"
# The first word on a setting holds, and these files are read in the order of their names.
_SSHD_DROP_IN = "/etc/ssh/sshd_config.d/00-hedgeserve.conf"

_SSHD_SETTINGS = """\
HostKey {host_key}
PasswordAuthentication no
KbdInteractiveAuthentication no
"""

_STARTUP = """\
#!/bin/sh
# First boot of a HedgeServe VM; it may run again at each boot.
umask 022
user=@user@
id "$user" > /dev/null 2>&1 || useradd -m -s /bin/bash "$user"
home=$(getent passwd "$user" | cut -d : -f 6)
mkdir -p "$home/.ssh"
touch "$home/.ssh/authorized_keys"
grep -qxF @authorized_key@ "$home/.ssh/authorized_keys" ||
    printf '%s\\n' @authorized_key@ >> "$home/.ssh/authorized_keys"
chown -R "$user:" "$home/.ssh"
chmod 700 "$home/.ssh"
chmod 600 "$home/.ssh/authorized_keys"
mkdir -p /etc/sudoers.d
printf '%s ALL=(ALL) NOPASSWD:ALL\\n' "$user" > /etc/sudoers.d/90-hedgeserve
chmod 440 /etc/sudoers.d/90-hedgeserve
(
    umask 077
    cat > @host_key_file@.new <<'END_OF_KEY'
@host_key@
END_OF_KEY
    mv -f @host_key_file@.new @host_key_file@
)
mkdir -p /etc/ssh/sshd_config.d
cat > @drop_in@.new <<'END_OF_SETTINGS'
@settings@END_OF_SETTINGS
if ! cmp -s @drop_in@.new @drop_in@; then
    mv -f @drop_in@.new @drop_in@
    touch /etc/ssh/sshd_config
    sed -i 's/^[[:space:]]*HostKey[[:space:]]/#&/' /etc/ssh/sshd_config
    grep -qiE '^[[:space:]]*Include[[:space:]]+(/etc/ssh/)?sshd_config\\.d/' /etc/ssh/sshd_config ||
        sed -i '1i Include @drop_in@' /etc/ssh/sshd_config
    # Called ssh by Debian and sshd by others; the sessions that are open stay.
    systemctl restart ssh.service || systemctl restart sshd.service
fi
rm -f @drop_in@.new
"""


def cloud_config(request: LaunchRequest, *, user: str, lease_s: float) -> str:
    """The user-data of a VM, as cloud-config (written as JSON, which is YAML too); well below EC2's 16 KiB.

    The VM takes itself down once nobody has touched its lease for ``lease_s``.
    """
    config = {
        "ssh_deletekeys": True,
        "ssh_genkeytypes": ["ed25519"],
        "ssh_keys": {"ed25519_private": request.host_key},
        "ssh_pwauth": False,
        "disable_root": user != "root",
        "users": [
            {
                "name": user,
                "shell": "/bin/bash",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [request.authorized_key],
            }
        ],
        "write_files": [
            {
                "path": _SSHD_DROP_IN,
                "permissions": "0644",
                "content": _SSHD_SETTINGS.format(host_key=_HOST_KEY),
            }
        ],
        # Not `runcmd`, which comes last: a VM whose boot hangs half-way must end too.
        "bootcmd": [["sh", "-c", install_script(user=user, lease_s=lease_s)]],
    }
    return "#cloud-config\n" + json.dumps(config)


def startup_script(request: LaunchRequest, *, user: str, lease_s: float) -> str:
    """The same as a POSIX shell script for root, for images without cloud-init; each boot may run it again."""
    values = {
        "user": shlex.quote(user),
        "authorized_key": shlex.quote(request.authorized_key.strip()),
        "host_key": request.host_key.strip(),
        "host_key_file": _SCRIPT_HOST_KEY,
        "drop_in": _SSHD_DROP_IN,
        "settings": _SSHD_SETTINGS.format(host_key=_SCRIPT_HOST_KEY),
    }
    script = _STARTUP
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    # The switch comes first: a VM whose set-up fails must end too.
    return script.replace("umask 022\n", "umask 022\n" + install_script(user=user, lease_s=lease_s), 1)
