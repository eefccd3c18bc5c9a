#!/usr/bin/env bash
# nightjar-standby from the outside: to a path and through a stand-in for ssh, cut off by kill -9, and
# with a copy that was damaged on the way: what is not equal to its source is never published.
# Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
standby=$here/../tools/scripts/standby.sh
command -v rsync >/dev/null || {
    echo "rsync is not installed"
    exit 77
}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-standby.XXXXXX") || exit 1
group=''
cleanup() {
    # A child that has not become its program yet would do this as well.
    ((BASHPID == $$)) || return
    [[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
PATH=$bin:$PATH

nightjar generate --output base.u8bin --count 2000 --dim 64 --type u8 >out 2>err || exit 1
mkdir root
for gen in gen-1 gen-2; do
    nightjar-build --input base.u8bin --output "root/$gen" --degree 16 --code-bytes 8 \
        --seed "${gen#gen-}" --quiet >out 2>err || exit 1
done
nightjar publish --root root gen-1 >out 2>err || exit 1

# send ARGUMENT...: a run; its exit status is in status.
send() {
    status=0
    "$standby" "$@" >out 2>err || status=$?
}
# arrived CLAIM ROOT GEN PHRASE: it went well and says so, and the copy is live and equal.
arrived() {
    if ((status != 0)) || ! grep -qF "nightjar-standby: ok gen=$3 $4: it is live in" out; then
        fail "$1: exit $status: $(cat out)"
    elif [[ $(readlink "$2/current") != "$3" || -e $2/.incoming-$3 ]]; then
        fail "$1: live $(readlink "$2/current"): $(ls -A "$2")"
    elif ! cmp -s <(nightjar verify --digest "root/$3") <(nightjar verify --digest "$2/$3"); then
        fail "$1: another digest"
    else
        pass
    fi
}
# refused CLAIM ROOT LIVE STATUS PHRASE: it failed, and LIVE, which may be nothing, is live.
refused() {
    if ((status != $4)) || ! grep -q "^nightjar-standby: .*$5" err; then
        fail "$1: exit $status"
    elif [[ $(readlink "$2/current") != "$3" ]]; then
        fail "$1: live $(readlink "$2/current")"
    else
        pass
    fi
}
# An rsync of our own comes before the real one in shim/, with what stdin has around REAL.
make_shim() {
    rm -rf shim
    mkdir shim
    {
        printf '#!/usr/bin/env bash\nREAL=%q\n' "$(command -v rsync)"
        cat
    } >shim/rsync
    chmod +x shim/rsync
}

# --- to a path -----------------------------------------------------------------------------------

mkdir there
send root there
arrived "a copy to a path" there gen-1 copied=yes
send root there
arrived "what is live there is left alone" there gen-1 copied=no
rm there/current
send root there
arrived "what is there and not live is published" there gen-1 copied=no
nightjar publish --root root gen-2 >out 2>err
send root there
arrived "the next generation" there gen-2 copied=yes

mkdir -p other/gen-2
touch other/gen-2/something
send root other
refused "a name that is taken" other '' 1 "other/gen-2: is there and is not the generation"
send root nosuch
refused "a root that is not there" nosuch '' 1 "nosuch: cannot be reached"
send nosuch there
refused "nothing to copy" there gen-2 1 "nosuch: no such directory"
send root
refused "one argument" there gen-2 2 "usage: "

# --- through a shell that is not ours ------------------------------------------------------------

# As ssh does: the words are joined, and the other side's shell takes them apart. rsync makes
# `-l user host` of user@host.
cat >ssh-stand-in <<'END'
#!/bin/sh
while :; do
    case $1 in
    -l) user=$2 && shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
[ "${user:+$user@}$1" = user@host ] || exit 255
shift
cd away && exec sh -c "$*"
END
chmod +x ssh-stand-in
mkdir -p "away/a root's \$HOME"
ln -s "$(command -v nightjar)" "away/night jar"
SSH=$PWD/ssh-stand-in REMOTE_NIGHTJAR="$PWD/away/night jar" send root "user@host:a root's \$HOME"
arrived "a copy to another host" "away/a root's \$HOME" gen-2 copied=yes
SSH=$PWD/ssh-stand-in send root "user@nosuch:root"
refused "a host that does not answer" there gen-2 1 "user@nosuch:root: cannot be reached"

# --- cut off -------------------------------------------------------------------------------------

# begun ROOT: a copy is on its way.
begun() {
    [[ -s $1/.incoming-gen-2/nodes.blk ]]
}
# cut_off ROOT: kills a copy, of which rsync is slow enough to be met in the middle.
cut_off() {
    local end=$((SECONDS + 120))
    make_shim <<'END'
exec "$REAL" --bwlimit=64 "$@"
END
    PATH=$PWD/shim:$PATH setsid "$standby" root "$1" >cut.out 2>cut.err &
    group=$!
    until begun "$1"; do
        if ((SECONDS > end)); then
            fail "a copy is begun"
            break
        fi
        sleep 0.01
    done
    kill -KILL -- "-$group"
    { wait "$group"; } 2>/dev/null
    group=''
}
mkdir cut
cut_off cut
if [[ -e cut/.incoming-gen-2 && ! -e cut/.incoming-gen-2/manifest.json && ! -e cut/current ]]; then
    pass
else
    fail "a copy that was cut off is no generation: $(ls -A cut cut/.incoming-gen-2)"
fi
# What had arrived is damaged where it lies, its time as that of its source.
damaged=cut/.incoming-gen-2/nodes.blk
cp root/gen-2/nodes.blk "$damaged"
printf '\377' | dd of="$damaged" bs=1 seek=5000 conv=notrunc status=none
touch -r root/gen-2/nodes.blk "$damaged"
mkdir cut/.incoming-gen-0
send root cut
arrived "a copy that was cut off is completed and mended" cut gen-2 copied=yes
if [[ ! -e cut/.incoming-gen-0 ]]; then
    pass
else
    fail "a copy of another generation that was cut off is removed"
fi

# --- damaged on the way --------------------------------------------------------------------------

make_shim <<'END'
"$REAL" "$@" || exit
file=flipped/.incoming-gen-2/nodes.blk
old=$(od -An -tu1 -j 5000 -N 1 "$file")
printf "$(printf '\\x%02x' $((old ^ 4)))" | dd of="$file" bs=1 seek=5000 conv=notrunc status=none
touch -r root/gen-2/nodes.blk "$file"
END
mkdir flipped
cp -r root/gen-1 flipped/gen-1
nightjar publish --root flipped gen-1 >out 2>err
# An even number of flips would undo itself: the second call of rsync sends the manifest alone.
sed -i 's|^file=|[[ " $* " == *" --exclude=/manifest.json "* ]] \|\| exit 0\n&|' shim/rsync
PATH=$PWD/shim:$PATH send root flipped
refused "a bit that was flipped on the way" flipped gen-1 1 "is not what root/gen-2 is: not published"
if grep -q 'nodes.blk: block 1' err && [[ ! -e flipped/gen-2 ]]; then
    pass
else
    fail "a bit that was flipped is found in its block: $(ls -A flipped)"
fi
send root flipped
arrived "the copy is mended" flipped gen-2 copied=yes

# Whole, and not the one it should be: only the digest tells.
make_shim <<'END'
"$REAL" "$@" && rm -rf swapped/.incoming-gen-2 && cp -r root/gen-1 swapped/.incoming-gen-2
END
mkdir swapped
PATH=$PWD/shim:$PATH send root swapped
refused "another generation in its place" swapped '' 1 "is not what root/gen-2 is: not published"
if [[ ! -e swapped/gen-2 ]]; then
    pass
else
    fail "another generation in its place has its name"
fi

summary
