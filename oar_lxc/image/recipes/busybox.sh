#!/bin/sh
# A system of a few megabytes from the packages busybox-static and dropbear-bin: init, a shell, the
# usual commands, an ssh server that takes the job's keys.
# mmdebstrap runs it with the directory into which the packages were unpacked as its argument.
set -eu
root=$1

# What apt and dpkg have there, mmdebstrap needs to the end.
find "$root/var" -mindepth 1 -maxdepth 1 ! -name lib ! -name cache -exec rm -rf {} +
find "$root/etc" -mindepth 1 -maxdepth 1 ! -name apt ! -name dpkg -exec rm -rf {} +
rm -rf "$root"/usr/share "$root"/usr/include "$root"/usr/lib/dpkg \
    "$root"/usr/lib/dropbear "$root"/usr/lib/*/gconv \
    "$root"/usr/libexec
# Of the C library and what dropbear is linked with, only that.
find "$root" \( -name '*.so' -o -name '*.so.*' -o -name '*-linux-gnu*.so*' \) ! -type d \
    ! -name 'ld-linux*' ! -name 'libc.so.*' ! -name 'libcrypt.so.*' ! -name 'libtomcrypt.so.*' \
    ! -name 'libtommath.so.*' ! -name 'libz.so.*' ! -name 'libgmp.so.*' -delete
for program in "$root"/usr/bin/* "$root"/usr/sbin/* "$root"/sbin/* "$root"/bin/*; do
    case $program in
    */busybox | */dropbear | */dropbearconvert | */dbclient) ;;
    *) rm -rf "$program" ;;
    esac
done
mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin"
[ -e "$root/bin/busybox" ] || mv "$root/usr/bin/busybox" "$root/bin/busybox"
for name in $("$root/bin/busybox" --list); do
    case $name in
    busybox) continue ;;
    init | halt | poweroff | reboot | ip | ifconfig | route | sysctl) at=sbin ;;
    *) at=bin ;;
    esac
    [ -e "$root/$at/$name" ] || ln -s /bin/busybox "$root/$at/$name"
done
ln -sf dbclient "$root/usr/bin/ssh"

for directory in dev proc sys run tmp var/log var/run root/.ssh etc/dropbear etc/ssh home mnt; do
    mkdir -p "$root/$directory"
done
chmod 1777 "$root/tmp"
chmod 700 "$root/root" "$root/root/.ssh"
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:*:19000:0:99999:7:::' > "$root/etc/shadow"
chmod 640 "$root/etc/shadow"
printf 'root:x:0:\ntty:x:5:\n' > "$root/etc/group"
echo /bin/sh > "$root/etc/shells"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
echo 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' > "$root/etc/profile"
printf 'NAME="busybox"\nID=busybox\nPRETTY_NAME="busybox of oar-lxc"\n' > "$root/etc/os-release"

cat > "$root/etc/inittab" <<'END'
::sysinit:/etc/rc.boot
::respawn:/usr/sbin/dropbear -F -E -s -r /etc/dropbear/dropbear_ed25519_host_key
::ctrlaltdel:/sbin/poweroff
::shutdown:/bin/sync
END
cat > "$root/etc/rc.boot" <<'END'
#!/bin/sh
mount -t tmpfs -o mode=755 tmpfs /run 2>/dev/null
[ -s /etc/hostname ] && hostname -F /etc/hostname
ip link set lo up
END
chmod 755 "$root/etc/rc.boot"
