#!/bin/sh
# Build what the Dockerfile's TARGETs (cuda and edge by default) would hold, by the same
# deploy/install.sh, in plain Debian folders, and try it: as a user without rights, on a root that is
# read-only but for the image's volumes. Prints the size and the seconds of each.
#
# Needs root, debootstrap, .venv, and space: 1 GB for edge, 15 GB for cuda. FOLDER (.cache/images) is where.
set -eu
cd "$(dirname "$0")/.."
SOURCE=$(pwd)
FOLDER=${FOLDER:-$SOURCE/.cache/images}
SUITE=trixie # Debian 13, as the Dockerfile's RELEASE
export SOURCE

# in_root ROOT COMMAND: as a build stage runs it, with the source read-only in /src.
in_root() {
    mkdir -p "$1/src"
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    test -z "${PIP_CERT:-}" || cp -L "$PIP_CERT" "$1/root/ca.crt"
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount sh -eu -c '
        root=$1; shift
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount --bind "$SOURCE" "$root/src"
        mount -o remount,bind,ro "$root/src"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
            PIP_NO_CACHE_DIR=1 ${PIP_CERT:+PIP_CERT=/root/ca.crt} "$@"' sh "$@"
}

# as_user ROOT COMMAND: as the final image runs it with --read-only.
as_user() {
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount --pid --fork sh -eu -c '
        root=$1; shift
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=1777 tmp "$root/tmp"
        mount -t tmpfs -o mode=700,uid=10001,gid=10001 data "$root/var/lib/secondlook"
        mount -o remount,bind,ro "$root"
        exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i HOME=/var/lib/secondlook \
            PATH=/opt/secondlook/bin:/usr/bin:/bin OMP_NUM_THREADS=2 "$@"' sh "$@"
}

# A student that sees red, and an image for it.
student() {
    PYTHONPATH=tests/support "${PYTHON:-.venv/bin/python}" - "$1" <<'MADE'
import sys
from pathlib import Path
from PIL import Image
from students import image, write_student
folder = Path(sys.argv[1])
write_student(folder)
Image.fromarray(image((0, 0))).save(folder.parent / "red.png")
MADE
}

rehearse() {
    began=$(date +%s)
    rm -rf "${FOLDER:?}/$1-build" "${FOLDER:?}/$1"
    for root in "$FOLDER/$1-build" "$FOLDER/$1"; do cp -a "$FOLDER/$SUITE" "$root"; done
    in_root "$FOLDER/$1-build" /src/deploy/install.sh build-tools
    in_root "$FOLDER/$1-build" /src/deploy/install.sh environment "$1"
    in_root "$FOLDER/$1" /src/deploy/install.sh runtime
    mv "$FOLDER/$1-build/opt/secondlook" "$FOLDER/$1/opt/secondlook"
    rm -rf "${FOLDER:?}/$1-build"
    built=$(date +%s)
    cp deploy/try-image.sh "$FOLDER/$1/opt/try-image.sh"
    test "$1" != edge || student "$FOLDER/edge/opt/student"
    as_user "$FOLDER/$1" /opt/try-image.sh "$1"
    echo "$1: $(du -sm "$FOLDER/$1" | cut -f1) MB, built in $((built - began)) s," \
        "tried in $(($(date +%s) - built)) s"
}

test -d "$FOLDER/$SUITE" || {
    mkdir -p "$FOLDER"
    debootstrap --variant=minbase "$SUITE" "$FOLDER/$SUITE.part"
    mv "$FOLDER/$SUITE.part" "$FOLDER/$SUITE"
}
test $# -gt 0 || set -- cuda edge
for target in "$@"; do rehearse "$target"; done
