"""A cloud VM's dead-man switch: what powers it off when its controller has not been heard of for too long. Pure.

The watcher that the controller keeps running on the VM touches ``hedgeserve/lease`` in the user's home every two
seconds; a root-owned script, kept alive by systemd, looks at it. What the cloud makes of a VM that powers itself
off is the driver's business: AWS can be told to terminate it, GCP and Azure stop it, and it is terminated when it
is next listed.
"""

import shlex

BOOT_GRACE_S = 600.0
"""Time on top of the lease for a VM that no controller has connected to yet."""

_CHECKS = 10
_SLOWEST_CHECK_S = 15.0
_QUICKEST_CHECK_S = 0.05

# The time is taken from the kernel's uptime, in hundredths of a second, from when a new touch is seen: a clock
# that is set ends no VM. One look counts for two at most, so that a VM that was suspended, and could not hear its
# controller, is not ended for that.
_SCRIPT = """\
#!/bin/sh
# Powers this VM off when its HedgeServe controller has not been heard of for too long.
user=@user@
uptime_cs() { IFS='. ' read -r s c rest < /proc/uptime; echo $((s * 100 + 1$c - 100)); }
seen=none
silent=0
allowed=$((@lease@ + @grace@))
last=$(uptime_cs)
while [ "$silent" -le "$allowed" ]; do
    sleep @pause@
    now=$(uptime_cs)
    step=$((now - last))
    last=$now
    [ "$step" -le @longest_step@ ] || step=@longest_step@
    home=$(getent passwd "$user" | cut -d : -f 6)
    touched=$(stat -c '%i %y' "$home/hedgeserve/lease" 2>/dev/null) || touched=none
    if [ "$touched" = "$seen" ]; then
        silent=$((silent + step))
    else
        seen=$touched
        silent=0
        allowed=@lease@
    fi
done
echo "no HedgeServe controller was heard of for $((silent / 100)) s: this VM powers itself off"
poweroff || shutdown -P now
sleep 60
poweroff -f
sleep 60
"""

_UNIT = """\
[Unit]
Description=Powers this VM off when its HedgeServe controller is silent

[Service]
ExecStart=/usr/local/sbin/hedgeserve-lease
Restart=always
RestartSec=5
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
"""

# `--no-block`: at a boot's beginning, where cloud-init runs this, the unit's turn comes later.
_INSTALL = """\
mkdir -p /usr/local/sbin /etc/systemd/system
cat > /usr/local/sbin/hedgeserve-lease.new <<'END_OF_LEASE'
@script@END_OF_LEASE
chmod 755 /usr/local/sbin/hedgeserve-lease.new
mv -f /usr/local/sbin/hedgeserve-lease.new /usr/local/sbin/hedgeserve-lease
cat > /etc/systemd/system/hedgeserve-lease.service <<'END_OF_UNIT'
@unit@END_OF_UNIT
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable hedgeserve-lease.service
    systemctl start --no-block hedgeserve-lease.service
else
    setsid /usr/local/sbin/hedgeserve-lease > /dev/null 2>&1 < /dev/null &
fi
"""


def switch_script(*, user: str, lease_s: float, grace_s: float = BOOT_GRACE_S) -> str:
    """The POSIX shell script that looks after the lease of ``user``, and ends in ``poweroff``.

    It gives a VM ``lease_s`` from each touch, and one whose lease was never there ``grace_s`` more; it may
    outlive either by a tenth.
    """
    pause_s = min(max(lease_s / _CHECKS, _QUICKEST_CHECK_S), _SLOWEST_CHECK_S)
    values = {
        "user": shlex.quote(user),
        "lease": str(round(lease_s * 100)),
        "grace": str(round(grace_s * 100)),
        "pause": f"{pause_s:g}",
        "longest_step": str(max(round(pause_s * 200), 1)),
    }
    return _filled(_SCRIPT, values)


def install_script(*, user: str, lease_s: float) -> str:
    """An idempotent POSIX shell script, for root, that puts the switch in its place and starts it."""
    return _filled(_INSTALL, {"script": switch_script(user=user, lease_s=lease_s), "unit": _UNIT})


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
