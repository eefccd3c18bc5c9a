#!/usr/bin/env bash
# Proves where a build's memory lies, on a machine of two NUMA nodes that qemu emulates in software.
#
#   numa-test.sh BUILD_DIR        its nightjar, nightjar-build and tests/test_topology; minutes
#
# Boots a Linux with nothing but busybox, the programs and their libraries. It runs test_topology,
# then builds an index of 4 shards; the build asks the kernel (move_pages) where the pages of each
# shard lie and reports it; the same build with --numa off is the control: it must be bound nowhere
# and give the same bytes. The last line is
#
#   numa-test: 4 shards, all pages on their nodes
#
# Exit status 1: what failed is named, after the machine's console. 77: no qemu, kernel or static
# busybox can be had. The kernel is the distribution's package: downloaded (27 MB), unpacked, not
# installed, and kept in BUILD_DIR/numa. NIGHTJAR_KERNEL=FILE takes another; it needs NUMA, tmpfs
# and a serial console built in, and no module.
set -euo pipefail
export LC_ALL=C

if (($# != 1)); then
    echo "usage: numa-test.sh BUILD_DIR" >&2
    exit 2
fi
build=$(cd "$1" && pwd)

# Few dimensions, because training in emulated floating point takes most of the time.
readonly SHARDS=4 VECTORS=20000 DIM=16
# The whole run takes some minutes; this ends one that hangs.
readonly TIMEOUT_S=${NIGHTJAR_TEST_TIMEOUT:-900}

work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-numa.XXXXXX")
cleanup() {
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

unable() {
    echo "numa-test: skipped: $*"
    exit 77
}

# fail WHAT: the end of the console says why.
fail() {
    [[ ! -s $work/console ]] || tail -n 60 "$work/console" | sed 's/^/    | /'
    echo "numa-test: FAILED: $*"
    exit 1
}

# ---- what is needed ----

apt_options=(-qq)
# Else apt complains that its own user cannot write to our directory.
((EUID != 0)) || apt_options+=(-o APT::Sandbox::User=root)

# unpack_package NAME DIRECTORY: downloads it and unpacks it there, installing nothing.
unpack_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mkdir -p "$work/deb" "$2"
    # Lists of packages may be missing, or name files that the mirror has dropped.
    (cd "$work/deb" && apt-get "${apt_options[@]}" download "$1") >"$work/apt" 2>&1 || {
        apt-get "${apt_options[@]}" update >"$work/apt" 2>&1 || true
        (cd "$work/deb" && apt-get "${apt_options[@]}" download "$1") >"$work/apt" 2>&1 || return 1
    }
    dpkg-deb -x "$work/deb/$1"_*.deb "$2"
}

# The kernel package that the distribution's name for "the present one" depends on.
kernel_package() {
    local name package
    for name in linux-image-cloud-amd64 linux-image-amd64 linux-image-virtual linux-image-generic; do
        package=$(apt-cache depends "$name" 2>/dev/null |
            awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }') || continue
        if [[ -n $package ]]; then
            echo "$package"
            return
        fi
    done
    return 1
}

find_kernel() {
    kernel=${NIGHTJAR_KERNEL-}
    if [[ -n $kernel ]]; then
        [[ -r $kernel ]] || unable "NIGHTJAR_KERNEL=$kernel: cannot be read"
        return
    fi
    local package
    command -v apt-cache >/dev/null || unable "no apt to get a kernel with; set NIGHTJAR_KERNEL=FILE"
    package=$(kernel_package) || {
        apt-get "${apt_options[@]}" update >"$work/apt" 2>&1 || true
        package=$(kernel_package) || unable "apt knows no kernel package"
    }
    kernel=$build/numa/$package
    [[ ! -s $kernel ]] || return 0
    unpack_package "$package" "$work/kernel" ||
        unable "cannot download $package: $(tail -n 1 "$work/apt")"
    mkdir -p "$build/numa"
    # Complete under its name, or not there.
    cp "$work"/kernel/boot/vmlinuz-* "$kernel.part"
    mv "$kernel.part" "$kernel"
}

find_busybox() {
    busybox=$(command -v busybox || true)
    if [[ -n $busybox ]] && ! ldd "$busybox" >/dev/null 2>&1; then
        return
    fi
    unpack_package busybox-static "$work/busybox" ||
        unable "no static busybox, and busybox-static cannot be downloaded"
    busybox=$(find "$work/busybox" -name busybox -type f -perm -u+x | head -n 1)
    [[ -n $busybox ]] || unable "busybox-static has no busybox"
}

# ---- the machine ----

# Copies a program to /bin of the machine, and its libraries and loader to where they are here.
add_program() {
    local library
    cp "$1" "$work/root/bin/"
    while IFS= read -r library; do
        [[ ! -e $work/root$library ]] || continue
        mkdir -p "$work/root$(dirname "$library")"
        cp -L "$library" "$work/root$library"
        dirname "$library" >>"$work/library-directories"
    done < <(ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }')
}

write_init() {
    local directories
    directories=$(sort -u "$work/library-directories" | paste -sd:)
    {
        echo '#!/bin/busybox sh'
        printf 'export PATH=/bin TMPDIR=/tmp HOME=/ LD_LIBRARY_PATH=%q\n' "$directories"
        printf 'shards=%s vectors=%s dim=%s\n' "$SHARDS" "$VECTORS" "$DIM"
        cat <<'INIT'
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

# step NAME COMMAND...
step() {
    name=$1
    shift
    echo "guest: $name"
    "$@" 2>&1
    echo "guest: $name ended with $?"
}
# build NAME OPTION...
build() {
    name=$1
    shift
    step "$name" nightjar-build --input /tmp/base.u8bin --output "/tmp/$name" --shards "$shards" \
        --threads 2 --degree 32 --build-list 50 --code-bytes 8 --quiet "$@"
    echo "guest: $name report $(tr -d ' \t\n' <"/tmp/$name/build-report.json")"
}
echo "guest: nodes $(cat /sys/devices/system/node/has_cpu) $(cat /sys/devices/system/node/has_memory)"
step topology test_topology
step generate nightjar generate --output /tmp/base.u8bin --count "$vectors" --dim "$dim" --type u8 --seed 1
build bound
build free --numa off
step compare cmp /tmp/bound/nodes.blk /tmp/free/nodes.blk
echo "guest: end"
poweroff -f
INIT
    } >"$work/root/init"
    chmod +x "$work/root/init"
}

make_initramfs() {
    mkdir -p "$work"/root/{bin,dev,proc,sys,tmp}
    : >"$work/library-directories"
    cp "$busybox" "$work/root/bin/busybox"
    add_program "$build/nightjar"
    add_program "$build/nightjar-build"
    add_program "$build/tests/test_topology"
    write_init
    (cd "$work/root" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initramfs"
}

# Two nodes of a socket with one CPU and half the memory each.
boot() {
    local half=512M status=0
    timeout -k 10 "$TIMEOUT_S" qemu-system-x86_64 -accel tcg,thread=multi -cpu max \
        -smp 2,sockets=2,cores=1,threads=1 -m 1G \
        -object "memory-backend-ram,id=memory0,size=$half" \
        -object "memory-backend-ram,id=memory1,size=$half" \
        -numa node,nodeid=0,cpus=0,memdev=memory0 -numa node,nodeid=1,cpus=1,memdev=memory1 \
        -nodefaults -no-user-config -display none -no-reboot -serial stdio \
        -kernel "$kernel" -initrd "$work/initramfs" \
        -append "console=ttyS0 quiet panic=-1 rdinit=/init" \
        </dev/null >"$work/serial" 2>"$work/qemu" || status=$?
    tr -d '\r' <"$work/serial" >"$work/console"
    ((status != 124 && status != 137)) || fail "the machine was still running after $TIMEOUT_S s"
    ((status == 0)) || fail "qemu ended with status $status: $(head -n 1 "$work/qemu")"
}

# ---- what it said ----

# The value of a field of one line of JSON without spaces; empty if it is not there.
field() {
    sed -nE "s/.*\"$2\":([^,}]*).*/\1/p" <<<"$1"
}

# Prints the "shards" of a build's report, one object a line.
report_shards() {
    sed -n "s/^guest: $1 report //p" "$work/console" |
        grep -oE '"shards":\[[^]]*\]' | grep -oE '\{[^}]*\}' || true
}

check_steps() {
    grep -q '^guest: nodes 0-1 0-1$' "$work/console" ||
        fail "the machine does not have two nodes with CPU and memory"
    local name
    for name in topology generate bound free compare; do
        grep -q "^guest: $name ended with 0\$" "$work/console" || fail "step '$name' failed"
    done
    grep -q '^guest: end$' "$work/console" || fail "the machine ended early"
    # Where there are two nodes and nobody refuses, no test has an excuse.
    ! grep -q '^\[  SKIPPED \]' "$work/console" || fail "test_topology skipped a test"
}

check_bound() {
    local line shard numa sampled on count=0 nodes=" "
    while IFS= read -r line; do
        shard=$(field "$line" shard) numa=$(field "$line" numa_node)
        sampled=$(field "$line" pages_sampled) on=$(field "$line" pages_on_node)
        echo "shard $shard: node $numa, $on of $sampled pages on it, strict $(field "$line" strict)"
        [[ $numa =~ ^[01]$ ]] || fail "shard $shard was built on node '$numa': want 0 or 1"
        [[ $sampled =~ ^[1-9][0-9]*$ ]] || fail "shard $shard: '$sampled' pages were looked at"
        [[ $on == "$sampled" ]] || fail "shard $shard: $on of $sampled pages are on node $numa"
        [[ $(field "$line" strict) == true ]] || fail "shard $shard was not bound strictly"
        [[ $nodes == *" $numa "* ]] || nodes+="$numa "
        count=$((count + 1))
    done < <(report_shards bound)
    ((count == SHARDS)) || fail "the report has $count shards: want $SHARDS"
    ((${#nodes} == 5)) || fail "all shards were built on node $nodes: want some on each"
}

check_control() {
    local line
    while IFS= read -r line; do
        [[ $(field "$line" strict) != true ]] ||
            fail "with --numa off, shard $(field "$line" shard) was bound all the same"
    done < <(report_shards free)
}

command -v qemu-system-x86_64 >/dev/null || unable "no qemu-system-x86_64"
for program in nightjar nightjar-build tests/test_topology; do
    [[ -x $build/$program ]] || fail "$build/$program: not built"
done
find_kernel
find_busybox
make_initramfs
echo "numa-test: booting $(basename "$kernel") on two emulated nodes"
boot
check_steps
check_bound
check_control
echo "numa-test: $SHARDS shards, all pages on their nodes"
