#!/usr/bin/env bash
# What `make install` puts beside the programs: units that systemd takes, hardened, with paths of this
# PREFIX; scripts that find the programs; a sample configuration that they take. Then what
# `make uninstall` leaves. Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-units.XXXXXX") || exit 1
daemon=''
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
prefix=$work/usr
units=$prefix/lib/systemd/system

evidence() {
    [[ ! -s out ]] || tail -n 20 out | sed 's/^/  | /'
}
# check CLAIM COMMAND...
check() {
    local claim=$1
    shift
    if "$@" >out 2>&1; then
        pass
    else
        fail "$claim: exit $?"
    fi
}

check "install" make -C "$here/.." install-operations PREFIX="$prefix"
for program in nightjar nightjar-build nightjard; do
    ln -s "$bin/$program" "$prefix/bin/$program"
done

# --- units ---------------------------------------------------------------------------------------

if grep -rn '/usr/local' "$units" >out; then
    fail "units have the paths of their PREFIX"
else
    pass
fi
if ! command -v systemd-analyze >/dev/null; then
    skip "units: systemd-analyze is not installed"
else
    for unit in "$units"/*; do
        name=${unit##*/}
        systemd-analyze verify --recursive-errors=no "$unit" >out 2>&1
        status=$?
        # Of other units on this machine it may complain as it likes.
        if ((status != 0)) || grep -qE '^(/.*/)?nightjar' out; then
            fail "systemd takes $name: exit $status"
        else
            pass
        fi
    done
    for name in nightjard.service nightjar-nightly.service; do
        # An exposure of 2.0 at most.
        check "$name is hardened" systemd-analyze security --offline=true --threshold=20 \
            "$units/$name"
    done
    check "the timer's calendar" systemd-analyze calendar \
        "$(sed -n 's/^OnCalendar=//p' "$units/nightjar-nightly.timer")"
fi
# Every option that a unit or the sample gives the daemon is one.
help=$("$prefix/bin/nightjard" --help 2>&1)
while read -r option; do
    if grep -qE -- "^ *$option( |$)" <<<"$help"; then
        pass
    else
        fail "nightjard has no $option"
    fi
done < <(grep -hE '^(ExecStart=.*nightjard|DAEMON_OPTIONS=)' "$units"/*.service \
    "$prefix/share/nightjar/nightjar.conf" | grep -oE -- '--[a-z-]+')

# --- scripts and their configuration -------------------------------------------------------------

for name in nightly standby; do
    if "$prefix/bin/nightjar-$name" --help >out 2>&1 && grep -q "^  *$name.sh " out &&
        ! grep -q '^[#!]' out; then
        pass
    else
        fail "nightjar-$name has --help"
    fi
done

# The programs are found beside the script; of the sample nothing but its paths is not of this machine.
mkdir root
nightjar=$prefix/bin/nightjar
"$nightjar" generate --output base.fbin --count 500 --dim 16 --type f32 >out 2>&1 || exit 1
sed -e "s|^ROOT=.*|ROOT=$work/root|" -e "s|^INPUT=.*|INPUT=$work/base.fbin|" -e '/^SOCKET=/d' \
    "$prefix/share/nightjar/nightjar.conf" >settings.conf
check "a night by the sample" env PATH=/usr/bin:/bin "$prefix/bin/nightjar-nightly" settings.conf
if [[ -e root/current/manifest.json ]]; then
    pass
else
    fail "a night by the sample publishes"
fi
mkdir standby
check "a standby" env PATH=/usr/bin:/bin REMOTE_NIGHTJAR="$nightjar" \
    "$prefix/bin/nightjar-standby" root standby
# The sample with all that it comments out is taken, up to queries that are not there.
sed -e 's/^#\([A-Z]\)/\1/' settings.conf >all.conf
status=0
PATH=/usr/bin:/bin "$prefix/bin/nightjar-nightly" all.conf >out 2>&1 || status=$?
if ((status == 1)) && grep -q '^nightjar-nightly: failed at=build .*keys.u64bin' out; then
    pass
else
    fail "the sample's other settings: exit $status"
fi

# --- the daemon as its unit starts it ------------------------------------------------------------

# ExecStart= with the sample's options, on a socket that is handed over under the unit's name for it.
if ! command -v systemd-socket-activate >/dev/null; then
    skip "the daemon as its unit starts it: systemd-socket-activate is not installed"
else
    command=$(sed -n 's/^ExecStart=//p' "$units/nightjard.service")
    # shellcheck disable=SC2016 # systemd's
    command=${command//'${ROOT}'/$work/root}
    # shellcheck disable=SC2016
    command=${command//'$DAEMON_OPTIONS'/$(sed -n 's/^DAEMON_OPTIONS=//p' settings.conf)}
    read -r -a words <<<"$command"
    systemd-socket-activate -l "$work/socket" \
        --fdname="$(sed -n 's/^FileDescriptorName=//p' "$units/nightjard.socket")" \
        "${words[@]}" >daemon.log 2>&1 &
    daemon=$!
    end=$((SECONDS + 120))
    until [[ -S socket ]] && "$nightjar" stats --socket socket >out 2>&1; do
        if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > end)); then
            break
        fi
        sleep 0.01
    done
    check "the daemon as its unit starts it: $(tail -n 1 daemon.log)" \
        "$nightjar" stats --socket socket
    kill "$daemon" 2>/dev/null
    status=0
    wait "$daemon" || status=$?
    daemon=''
    if ((status == 0)); then
        pass
    else
        fail "the daemon as its unit starts it ends with status $status"
    fi
fi

# --- uninstall -----------------------------------------------------------------------------------

check "uninstall" make -C "$here/.." uninstall PREFIX="$prefix"
left=$(find "$prefix" ! -type d)
if [[ -z $left ]]; then
    pass
else
    fail "uninstall leaves $left"
fi

summary
