#!/usr/bin/env bash
# Boots systemd as process 1 of namespaces of its own, on a copy of this host's file system that vanishes with it: what is
# installed there changes nothing here. Lives until its standard input closes.
#
# machine.sh DIRECTORY REPOSITORY BINARY: DIRECTORY is an empty one; the repository is /src of the machine, with the binary
# as target/release/corelane. Prints the number of the process that is process 1 inside.
set -euo pipefail

if [ "${4-}" != inside ]; then
    directory=$1
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$directory"
    mkdir "$directory/groups"
    mount -t cgroup2 cgroup2 "$directory/groups"
    group=$directory/groups/corelane-machine-$$
    mkdir "$group"
    # Runs in the new group, so that the namespace of groups begins there.
    bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
        unshare --pid --mount --cgroup --ipc --uts --net --fork --kill-child bash "$0" "$@" inside </dev/null >&2 &
    outer=$!
    # shellcheck disable=SC2329 # by the trap
    tidy() {
        kill -KILL "$outer" 2>/dev/null || true
        wait "$outer" 2>/dev/null || true
        for _ in $(seq 100); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    }
    trap tidy EXIT
    until inner=$(pgrep --parent "$outer"); do
        kill -0 "$outer"
        sleep 0.05
    done
    echo "$inner"
    cat >/dev/null
    exit
fi

directory=$1 repository=$2 binary=$3
overlay() {
    mkdir -p "$directory/$1.upper" "$directory/$1.work" "$3"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$directory/$1.upper,workdir=$directory/$1.work" "$3"
}
root=$directory/root
overlay root / "$root"
overlay src "$repository" "$root/src"
install -D "$binary" "$root/src/target/release/corelane"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root/dev/shm"
ip link set lo up
# Nothing of what this host starts, and nothing of what was installed here before.
rm -rf "$root"/etc/systemd/system/* "$root"/etc/corelane "$root"/usr/local/bin/corelane
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
# What a container has no use for, and would only wait for.
for unit in systemd-udevd.service systemd-timesyncd.service systemd-resolved.service systemd-networkd.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
mkdir "$root/run/host"
cd "$root"
pivot_root . run/host
exec </dev/null
umount --lazy /run/host
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --log-level=notice --show-status=no
