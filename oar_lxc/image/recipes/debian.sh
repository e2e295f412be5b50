#!/bin/sh
# Let a Debian or Ubuntu system boot fast in a container, and make no keys of its own.
# mmdebstrap runs it with the root directory of the system as its argument.
set -eu
root=$1

# The host key is the job's, put there at launch: nothing has to be generated at boot.
rm -f "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/etc/ssh/sshd_config.d"
cat > "$root/etc/ssh/sshd_config.d/oar-lxc.conf" <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
END

# Units that have no work in a container whose network and clock are the node's affair.
mkdir -p "$root/etc/systemd/system"
for unit in \
    systemd-networkd-wait-online.service systemd-timesyncd.service systemd-resolved.service \
    systemd-networkd.service systemd-networkd.socket systemd-udevd.service \
    systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service \
    systemd-modules-load.service modprobe@.service systemd-sysusers.service \
    systemd-hwdb-update.service sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount dev-hugepages.mount e2scrub_reap.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer getty.target
do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

: > "$root/etc/machine-id"
: > "$root/etc/fstab"
rm -f "$root/etc/hostname"
