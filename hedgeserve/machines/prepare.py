"""The scripts that make a fresh cloud VM fit for an engine: booted, its driver there, a large fast disk. Pure.

Each is a POSIX shell script that may run any number of times.
"""

import shlex

from hedgeserve.engines.vllmscripts import AS_ROOT

# What went wrong at the boot is not ours to judge (an image's own packages, say): what we need from it was done
# when SSH let us in.
_CLOUD_INIT = """\
command -v cloud-init > /dev/null 2>&1 || exit 0
timeout {limit} cloud-init status --wait || echo "cloud-init ended with status $?"
exit 0
"""

_DRIVER = """\
read -r now _ < /proc/uptime
until=$((${{now%.*}} + {limit}))
while :; do
    found=$(timeout 60 nvidia-smi -L 2>&1)
    count=$(printf '%s\\n' "$found" | grep -c '^GPU ')
    [ "$count" -lt {gpus} ] || exit 0
    read -r now _ < /proc/uptime
    [ "${{now%.*}}" -lt "$until" ] || break
    sleep 2
done
printf '%s\\n' "$found"
if [ "$count" = 0 ]; then
    echo 'no NVIDIA driver answered within {limit} s; use an image that has one, or raise vm.driver_wait'
else
    echo "the driver knows $count GPUs after {limit} s, and the VM was rented with {gpus}"
fi
exit 1
"""

# A disk is only formatted if it is whole (no partitions), mounted nowhere and without any signature: one with
# data on it is never taken. Whatever fails on the way, the work directory will do.
_SCRATCH = """\
mount=/mnt/hedgeserve-scratch
blank_nvme() {{
    lsblk -dnbro NAME,TYPE,SIZE | sort -k 3,3nr | while read -r name type size; do
        case $name in nvme*) ;; *) continue ;; esac
        [ "$type" = disk ] || continue
        [ "$(lsblk -nro NAME "/dev/$name" | wc -l)" -eq 1 ] || continue
        [ -z "$(lsblk -nro MOUNTPOINT "/dev/$name" | tr -d '[:space:]')" ] || continue
        as_root blkid -p "/dev/$name" > /dev/null 2>&1
        [ $? -eq 2 ] || continue
        echo "/dev/$name"
        break
    done
}}
scratch=
if mountpoint -q /opt/dlami/nvme; then
    scratch=/opt/dlami/nvme
elif mountpoint -q "$mount"; then
    scratch=$mount
else
    device=$(blank_nvme)
    if [ -n "$device" ]; then
        if as_root mkfs.ext4 -q -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$device" &&
            as_root mkdir -p "$mount" && as_root mount -o noatime "$device" "$mount"; then
            scratch=$mount
        fi
    elif [ {dialect} = azure ] && mountpoint -q /mnt; then
        scratch=/mnt
    fi
fi
if [ -n "$scratch" ] && as_root mkdir -p "$scratch/hedgeserve" &&
    as_root chown "$(id -u):$(id -g)" "$scratch/hedgeserve"; then
    echo "$scratch/hedgeserve"
else
    echo {workdir}
fi
"""


def cloud_init_script(*, limit_s: float) -> str:
    """Wait until the boot is over; never fails, and goes on after ``limit_s``."""
    return _CLOUD_INIT.format(limit=round(limit_s))


def driver_script(*, gpus: int, limit_s: float) -> str:
    """Wait until the NVIDIA driver answers for ``gpus`` GPUs; fails after ``limit_s``, with the reason last."""
    return _DRIVER.format(gpus=gpus, limit=round(limit_s))


def scratch_script(*, workdir: str, dialect: str) -> str:
    """Find or make a large fast disk; the last line that it prints is the directory on it that is ours.

    The image's own instance storage, else the biggest blank NVMe disk, else Azure's resource disk, else
    ``workdir``. Never fails.
    """
    return AS_ROOT + _SCRATCH.format(workdir=shlex.quote(workdir), dialect=shlex.quote(dialect))
