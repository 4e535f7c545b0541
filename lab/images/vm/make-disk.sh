#!/bin/sh
# Write this image's own root file system to /out/disk.img, its kernel and initramfs beside it. No mount, no privilege.
# usage: lab-make-disk HOSTNAME SIZE, with the keys in /out and an empty volume at /stage.
set -eu
# -x leaves out what a container mounts: /proc, /sys, /dev, /out, its own /etc/hosts and the like.
cp -ax /. /stage
cd /stage
# systemd would take the machine for a container.
rm -f .dockerenv
echo "$1" > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$1" > etc/hosts
echo "nameserver 10.0.2.3" > etc/resolv.conf
install -D -m 600 /out/id_ed25519.pub root/.ssh/authorized_keys
install -m 600 /out/host_ed25519 etc/ssh/ssh_host_ed25519_key
install -m 644 /out/host_ed25519.pub etc/ssh/ssh_host_ed25519_key.pub
cp -L boot/vmlinuz-* /out/vmlinuz
cp -L boot/initrd.img-* /out/initrd
# Under its own name only when it is whole: the lab takes a disk that exists for a good one.
rm -f /out/disk.img.part
mke2fs -q -t ext4 -d /stage /out/disk.img.part "$2"
chown --reference=/out /out/vmlinuz /out/initrd /out/disk.img.part
mv /out/disk.img.part /out/disk.img
