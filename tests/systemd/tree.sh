#!/bin/sh
# tree.sh FOLDER: makes FOLDER/tree, a small Debian with systemd, unless it is there.
#
# The suite `systemd` boots it with an overlay on top, so it is made once and never written to.
# It is of this machine's own release: the daemon under test was linked against its libraries.
# TIEBEAM_DEBIAN_MIRROR names another source of packages.
set -eu

folder=$1
mkdir -p "$folder"
exec 9> "$folder/lock"
flock 9
[ -d "$folder/tree" ] && exit 0

. /etc/os-release
[ "$ID" = debian ] || { echo "a tree for $ID cannot be made: it takes Debian" >&2; exit 1; }
mirror=${TIEBEAM_DEBIAN_MIRROR:-http://deb.debian.org/debian}
new=$folder/new
rm -rf "$new"
debootstrap --variant=minbase --include=systemd-sysv,dbus "$VERSION_CODENAME" "$new" "$mirror" \
    > "$folder/debootstrap.log" 2>&1 || { tail -n 3 "$folder/debootstrap.log" >&2; exit 1; }
# It would be this machine's name.
rm -f "$new/etc/hostname"
rm -rf "$new/var/cache/apt/archives" "$new/var/lib/apt/lists"
mv "$new" "$folder/tree"
