#!/bin/busybox sh
# shellcheck shell=dash
# The guest's process 1 (xtask/src/guest): makes the host's file system ours to write on, runs /job there, reports and ends.
/bin/busybox --install -s /bin
export PATH=/bin

finish() {
    echo "$(uname -r) $1" >/dev/ttyS1
    sync
    # Both lines empty before the machine is gone.
    stty -F /dev/ttyS1 sane
    stty -F /dev/ttyS0 sane
    reboot -f # with -no-reboot: the end of qemu
    sleep 60
}
fail() {
    echo "vm-init: $*"
    finish 125
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev || fail "no /dev"
stty -F /dev/ttyS0 -onlcr

echo up >/dev/ttyS1 # from here on a death is ours

for module in /modules/*; do
    insmod "$module" || fail "$module does not load"
done

mkdir -p /lower /upper /root
mount -t virtiofs -o ro host /lower || fail "the host's file system is not there"
mount -t tmpfs upper /upper || fail "no writable layer"
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root || fail "no root"

cd /root || fail "no root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run # not the host's sockets
mkdir run/results
mount -t virtiofs results run/results || fail "no place for results"
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t securityfs securityfs sys/kernel/security
mount -t debugfs debugfs sys/kernel/debug
mount -t tracefs tracefs sys/kernel/tracing
ln -sf /proc/self/fd dev/fd
ip link set lo up
hostname guest

read -r cmdline </proc/cmdline
for word in $cmdline; do
    case $word in
        test_kernel=*) export TEST_KERNEL="${word#*=}" ;;
        modules=*) mkdir -p lib/modules && mount --bind "/lower${word#*=}" lib/modules ;; # for modprobe
    esac
done

cp /job run/job
# Through a pipe, for a program that finds a terminal prints colours.
{
    chroot /root /bin/bash /run/job </dev/null 2>&1
    echo $? >/exit-code
} | cat
read -r code </exit-code
finish "$code"
