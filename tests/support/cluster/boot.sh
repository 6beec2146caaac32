#!/usr/bin/env bash
# Process 1 of a test host, started by hosts.py in namespaces of its own: this machine's disk under a layer of its own,
# a home, /tmp, /run and /dev/shm of its own, then sshd.
#
#   boot.sh FOLDER NAME ADDRESS SHARED KEEP...     FOLDER holds id.pub, hostkey and bashrc; KEEP are seen there, too
set -euo pipefail
folder=$1 name=$2 address=$3 shared=$4
shift 4

mount --make-rprivate /
disk=$folder/$name
mkdir -p "$disk"
mount -t tmpfs -o size=4g,mode=755 "$name" "$disk"
mkdir "$disk"/{upper,work,root,kept,shared}
for number in $(seq $#); do # before the layer hides them
    mkdir "$disk/kept/$number"
    mount --bind "${!number}" "$disk/kept/$number"
    mount -o remount,bind,ro "$disk/kept/$number"
done
mount --bind "$shared" "$disk/shared"
cp "$folder"/{id.pub,hostkey,bashrc} "$disk"

mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o size=2g,mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount --bind dev/pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=700 home root
mkdir -p run/sshd srv/audioconfit
mount --bind "$disk/shared" srv/audioconfit # stands for what all nodes mount
for number in $(seq $#); do
    [ -z "$(ls -A ".${!number}" 2> /dev/null)" ] || continue # seen through the layer
    mkdir -p ".${!number}"
    mount --rbind "$disk/kept/$number" ".${!number}"
done

mkdir -m 700 root/.ssh
install -m 600 "$disk/id.pub" root/.ssh/authorized_keys
install -m 600 "$disk/hostkey" etc/ssh/test_host_key
cp "$disk/bashrc" root/.bashrc
sed -i 's/^root:[^:]*/root:*/' etc/shadow # not locked, and no password
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" > etc/hosts
[ -e usr/bin/sudo ] || { printf '#!/bin/sh\nexec "$@"\n' > usr/local/bin/sudo && chmod 755 usr/local/bin/sudo; }

mkdir .old
pivot_root . .old
cd /
umount -l /.old
hostname "$name"
until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done # its cable is plugged in from outside
ip link set lo up
ip address add "$address/16" dev eth0
ip link set eth0 up
export HOME=/root
exec /usr/sbin/sshd -D -e -p 22 -o HostKey=/etc/ssh/test_host_key -o UsePAM=no -o PasswordAuthentication=no \
    -o PermitRootLogin=prohibit-password -o MaxStartups=200 -o MaxSessions=200
