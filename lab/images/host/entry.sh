#!/bin/sh
# First process of a lab host: make the container's view of the kernel writable where an engine needs it, then become systemd.
set -eu
# cgroup v1 without --privileged: the controllers come read-only in a private cgroup namespace.
for mount_point in /sys/fs/cgroup /sys/fs/cgroup/* /sys /proc/sys; do
    if mountpoint -q "$mount_point"; then
        mount -o remount,bind,rw "$mount_point" 2>/dev/null || true
    fi
done
mount --make-rshared /
[ -f /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
exec /sbin/init
