# The kernel's part of a VM's life, run as the first process of its namespaces: boot.sh DIRECTORY ADDRESS GATEWAY
# Says "here" once the namespaces are made, and goes on when the cable (eth0) has been put into them.
set -e
echo here
read -r _
exec >> "$1/console" 2>&1 < /dev/null
ip link set lo up
ip addr add 169.254.169.254/32 dev lo
ip addr add "$2/30" dev eth0
ip link set eth0 up
ip route add default via "$3"

# A file system of its own over this machine's: what a VM writes is seen by nobody else, and is gone with it.
mount --make-rprivate /
mkdir "$1/disk"
mount -t tmpfs -o mode=755 disk "$1/disk"
mkdir "$1/disk/upper" "$1/disk/work" "$1/disk/root"
chmod 755 "$1/disk/upper"
mount -t overlay root -o "lowerdir=/,upperdir=$1/disk/upper,workdir=$1/disk/work" "$1/disk/root"
cd "$1/disk/root"
# No disk of this machine: a VM formats those that it finds blank.
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t proc proc proc
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=700 root root
mount -t tmpfs -o mode=755 home home
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -m 755 run/sshd
cp "$1/seed.json" "$1/firstboot.py" run/
exec chroot . /usr/bin/python3 -I /run/firstboot.py
