#!/bin/sh
# Becomes a machine of its own. $0 is an empty folder, $@ what runs on the machine as long as it is there.
#
# What PID 1 would have made before is made here; sockets are for everybody, as PID 1 makes them. A manager takes its
# control group for the root of all, so each machine has one.
set -e
for tree in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup/memory; do
    if [ -e "$tree/cgroup.procs" ]; then
        mkdir "$tree/skyprobe-machine-$$"
        echo $$ >"$tree/skyprobe-machine-$$/cgroup.procs"
    fi
done
mount -t tmpfs -o mode=755 tmpfs "$0"
cd "$0"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
for part in proc sys dev; do mount --rbind "/$part" "$part"; done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/old run/written run/systemd/inaccessible/dir run/units
mount --bind "$0/upper" run/written
pivot_root . run/old
umount -l run/old
rmdir run/old
cd /run/systemd/inaccessible
touch reg
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
mkfifo sock
cd /
umask 0
touch /run/booted
exec "$@"
