#!/usr/bin/env bash
# A daemon under load for long: what it answers while generations are swapped, damaged ones are
# published, more is asked than it can answer, and garbage is sent to it.
#
#   tests/soak.sh BUILD_DIR PART [DATA]       PART: swaps, overload or frames
#
# DATA has base.*, query.* and their exact neighbours (gt* or truth*); without it, vectors are made
# up. Settings, by environment:
#   SOAK_SECONDS  30        of the part swaps
#   SWAP_SECONDS  3         between two publications in it; every fourth, from the second on, is of a
#                           damaged generation
#   SWAPS         0         that there must be before it ends
#   STEP_SECONDS  5         a step of the part overload
#   FRAMES        10000000  of the part frames
#   FRAMES_ARGS   -         more arguments for soak_frames
#   VECTORS       100000    made up
#   MEMORY        256M      of the daemon
#   SOAK_WORK     -         directory to work in, made and removed (default: in TMPDIR)
#   SOAK_JSON     -         file that gets the figures as JSON, one object a line
# Exit status 1: an answer was wrong or missing, the daemon died, or its log has an error that was
# not provoked. Times and rates are printed, never judged.
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive

if (($# < 2)) || [[ ! $2 =~ ^(swaps|overload|frames)$ ]]; then
    echo "usage: tests/soak.sh BUILD_DIR swaps|overload|frames [DATA]" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
part=$2
data=${3:+$(cd "$3" && pwd)}
soak_seconds=${SOAK_SECONDS:-30}
swap_seconds=${SWAP_SECONDS:-3}
json=${SOAK_JSON:+$(realpath "$SOAK_JSON")}
work=${SOAK_WORK:-$(mktemp -d "${TMPDIR:-/tmp}/nightjar-soak.XXXXXX")}
mkdir -p "$work"
daemon=
client=
cleanup() {
    [[ -z $client ]] || kill -KILL "$client" 2>/dev/null || :
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null || :
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$work"

failed=0
fault() {
    echo "soak: $*" >&2
    failed=1
}
die() {
    fault "$@"
    exit 1
}
nightjar() {
    "$build/nightjar" "$@"
}

# --- what is served ----------------------------------------------------------------------------

# first PATTERN...: the first file in DATA that matches
first() {
    local pattern file
    for pattern; do
        for file in "$data"/$pattern; do
            if [[ -f $file ]]; then
                echo "$file"
                return
            fi
        done
    done
    die "$data: no file $*"
}

generations=() # arguments for those who check answers
# make_generation NUMBER: gen-NUMBER, whose keys are its own
make_generation() {
    local keys=keys-$1.u64bin
    "$build/tests/soak_keys" --output "$keys" --count "$count" --offset $(($1 * 1000000000000))
    "$build/nightjar-build" --input "$base" --keys "$keys" --output "root/gen-$1" --seed "$1" \
        --quiet >build.out
    generations+=("root/gen-$1=$base,$work/$keys,$truth")
}

mkdir root
if [[ -n $data ]]; then
    base=$(first 'base.*bin' 'base.*vecs')
    query=$(first 'query.*bin' 'query.*vecs')
    truth=$(first 'gt*' 'truth*')
else
    base=$work/base.u8bin query=$work/query.u8bin truth=$work/truth.bin
    nightjar generate --output "$base" --queries-output "$query" --count "${VECTORS:-100000}" \
        --query-count 1000 --dim 128 --type u8 --seed 1
    nightjar groundtruth --input "$base" --queries "$query" --output "$truth" -k 100 --metric l2
fi
count=$(od -An -tu4 -N 4 "$base" | tr -d ' ')
make_generation 1
if [[ $part == swaps ]]; then
    make_generation 2
    make_generation 3
    # A bit is flipped where it is found on opening, not by lengths. Codes alone would not do: a
    # daemon with the memory for finer ones makes these from the vectors and never reads the file.
    cp -al root/gen-1 root/bad
    for name in codes.bin navigation.bin; do
        cp "root/bad/$name" flipped
        byte=$(od -An -tu1 -j 1000 -N 1 flipped)
        # shellcheck disable=SC2059 # the format is the byte
        printf "$(printf '\\x%02x' $((byte ^ 1)))" |
            dd of=flipped bs=1 seek=1000 conv=notrunc status=none
        mv flipped "root/bad/$name"
    done
fi

nightjar publish --root root gen-1 >publish.out
"$build/nightjard" --root root --socket socket --memory "${MEMORY:-256M}" 2>daemon.log &
daemon=$!
end=$((SECONDS + 300))
until nightjar stats --socket socket >stats.out 2>&1; do
    kill -0 "$daemon" 2>/dev/null || die "the daemon did not start: $(tail -n 1 daemon.log)"
    ((SECONDS < end)) || die "the daemon does not answer"
    sleep 0.1
done

# --- generations are swapped -------------------------------------------------------------------

# event WORD [NAME]: its time is the caller's
event() {
    echo "$1 $EPOCHREALTIME${2:+ $2}" >>events
}
# reload_done: when what was live is freed too. The second look comes after that.
reload_done() {
    nightjar reload --socket socket >reload.out 2>&1 || return
    nightjar reload --socket socket >reload.out 2>&1
}
publish_good() { # NAME
    event begin
    if ! nightjar publish --root root "$1" >publish.out 2>&1; then
        fault "publish $1: $(tail -n 1 publish.out)"
    elif ! reload_done; then
        fault "reload $1: $(tail -n 1 reload.out)"
    fi
    event end "$1"
}
publish_bad() { # NAME: what is live and stays so
    event begin
    ln -s bad root/link
    mv -T root/link root/current
    if nightjar reload --socket socket >reload.out 2>&1; then
        fault "a damaged generation was taken"
    fi
    nightjar publish --root root "$1" >publish.out 2>&1 || fault "publish $1 again"
    reload_done || fault "reload $1 again: $(tail -n 1 reload.out)"
    event end "$1"
    bad_count=$((bad_count + 1))
}
# pause SECONDS: also over when the client ends
pause() {
    local until=$((${EPOCHREALTIME/./} + ${1%.*} * 1000000))
    while ((${EPOCHREALTIME/./} < until)) && kill -0 "$client" 2>/dev/null; do
        sleep 0.05
    done
}

bad_count=0
run_swaps() {
    local live=1 number=0 status=0
    event begin
    event end gen-1
    "$build/tests/soak_client" --socket socket --queries "$query" --events events \
        --duration "$soak_seconds" --warmup $((3 * swap_seconds)) --swaps "${SWAPS:-0}" ${json:+--json} \
        "${generations[@]}" >client.out &
    client=$!
    pause "$swap_seconds"
    while kill -0 "$client" 2>/dev/null; do
        number=$((number + 1))
        if ((number % 4 == 2)); then
            publish_bad "gen-$live"
        else
            live=$((live % 3 + 1))
            publish_good "gen-$live"
        fi
        pause "$swap_seconds"
    done
    wait "$client" || status=$?
    client=
    cat client.out
    [[ -z $json ]] || cat client.out >>"$json"
    ((status == 0)) || fault "soak_client: exit $status"
}

# --- more than can be answered, and garbage ----------------------------------------------------

run_overload() {
    "$build/tests/soak_load" --socket socket --queries "$query" --duration "${STEP_SECONDS:-5}" \
        ${json:+--json} "${generations[@]}" >client.out || fault "soak_load: exit $?"
    cat client.out
    [[ -z $json ]] || cat client.out >>"$json"
}
run_frames() {
    local more
    read -r -a more <<<"${FRAMES_ARGS-}"
    "$build/tests/soak_frames" --socket socket --queries "$query" --frames "${FRAMES:-10000000}" \
        ${json:+--json} ${more[@]+"${more[@]}"} "${generations[@]}" >client.out ||
        fault "soak_frames: exit $?"
    cat client.out
    [[ -z $json ]] || cat client.out >>"$json"
}

case $part in
swaps) run_swaps ;;
overload) run_overload ;;
frames) run_frames ;;
esac

# --- the daemon's end --------------------------------------------------------------------------

status=0
kill -TERM "$daemon" || fault "the daemon was gone"
wait "$daemon" || status=$?
daemon=
((status == 0)) || fault "the daemon: exit $status: $(tail -n 1 daemon.log)"
refused=$(grep -c ' level=error event=refused name="bad" .*\.bin' daemon.log || :)
errors=$(grep ' level=error ' daemon.log | grep -v ' event=refused name="bad" ' || :)
[[ -z $errors ]] || fault "the daemon's log: $(head -n 3 <<<"$errors")"
((refused >= bad_count)) || fault "$bad_count damaged generations were published, $refused refused"
if [[ $part == swaps ]]; then
    echo "log: $(grep -c ' event=swap ' daemon.log || :) swaps;" \
        "$refused refusals, of damaged generations that were published $bad_count times; no other error"
fi
((failed == 0))
