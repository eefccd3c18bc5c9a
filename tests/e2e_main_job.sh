#!/usr/bin/env bash
# The whole path from nothing: generate, exact neighbours, build, verify, publish, serve, search and
# bench over the socket and in process, with recall gates; for u8/l2, f32/cosine and f32/ip.
# Ends with `N passed, N failed`.
set -euo pipefail
export LC_ALL=C
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh"

bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-main.XXXXXX")
daemon=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null || :
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

large=20000 small=5000
[[ $mode == release ]] || large=3000 small=1500

# check CLAIM COMMAND...: the command succeeds; its output is in out and err.
check() {
    local claim=$1
    shift
    if "$@" >out 2>err; then
        pass
    else
        fail "$claim: exit $?"
    fi
}
# field NAME FILE: a number of one-line JSON
field() {
    sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$2"
}
# at_least CLAIM VALUE BOUND
at_least() {
    if awk -v value="${2:-none}" -v bound="$3" 'BEGIN { exit !(value != "none" && value >= bound) }'; then
        pass
    else
        fail "$1: ${2:-nothing}, wanted at least $3"
    fi
}

# start_daemon ARGUMENT...: back when it answers.
start_daemon() {
    "$bin/nightjard" --socket socket "$@" 2>daemon.log &
    daemon=$!
    local end=$((SECONDS + 120))
    until "$bin/nightjar" stats --socket socket --json >out 2>err; do
        if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > end)); then
            fail "the daemon answers: $(tail -n 1 daemon.log)"
            return 1
        fi
    done
}
# stop_daemon CLAIM: SIGTERM drains and exits 0.
stop_daemon() {
    local status=0
    kill -TERM "$daemon"
    wait "$daemon" || status=$?
    daemon=
    if ((status == 0)) && [[ ! -e socket ]]; then
        pass
    else
        fail "$1: exit $status, $(ls socket 2>/dev/null)"
    fi
}

# prepare NAME SUFFIX TYPE COUNT METRIC: vectors, queries, exact neighbours and a published generation
# below NAME/.
prepare() {
    local name=$1 suffix=$2 type=$3 count=$4 metric=$5
    mkdir "$name" "$name/root"
    check "$name: generate" "$bin/nightjar" generate --output "$name/base.$suffix" \
        --count "$count" --dim 96 --type "$type" --seed 7 \
        --queries-output "$name/queries.$suffix" --query-count 500
    check "$name: groundtruth" "$bin/nightjar" groundtruth --input "$name/base.$suffix" \
        --queries "$name/queries.$suffix" --output "$name/truth.bin" --metric "$metric"
    check "$name: build" "$bin/nightjar-build" --input "$name/base.$suffix" \
        --output "$name/root/gen-1" --metric "$metric" --quiet
    check "$name: verify" "$bin/nightjar" verify "$name/root/gen-1"
    check "$name: publish" "$bin/nightjar" publish --root "$name/root" gen-1
    check "$name: info" "$bin/nightjar" info --json "$name/root/current"
    at_least "$name: info counts the vectors" "$(field vector_count out)" "$count"
}

# bench_gate CLAIM ARGUMENT...: recall@10 at L = 60; the object is in out.
bench_gate() {
    local claim=$1
    shift
    check "$claim" "$bin/nightjar" bench "$@" -k 10 --search-list 60 --duration 0 --json
    at_least "$claim: recall" "$(field recall out)" 0.95
}

# --- u8, l2: the main job ------------------------------------------------------------------------

prepare u8 u8bin u8 $large l2
# Too little memory for every block: the search reads.
start_daemon --root u8/root --memory 2M --threads 2
files=(--queries u8/queries.u8bin --groundtruth u8/truth.bin)
bench_gate "u8 over the socket" --socket socket "${files[@]}" --concurrency 8
if [[ $mode == release ]]; then
    at_least "u8 over the socket: reads" "$(field reads_per_query out)" 0.5
fi
bench_gate "u8, more queries than connections" --socket socket "${files[@]}" --concurrency 100

check "u8: search finds base rows" "$bin/nightjar" search --socket socket \
    --queries u8/base.u8bin --limit 300 -k 1 --search-list 60
at_least "u8: base rows find themselves" \
    "$(awk 'NR > 1 && $1 == $3 && $4 == 0 { found++ } END { print found }' out)" 290
check "u8: search writes ids" "$bin/nightjar" search --socket socket \
    --queries u8/queries.u8bin -k 10 --search-list 60 --output ids.ibin
if (($(stat -c %s ids.ibin) == 8 + 500 * 10 * 4)); then
    pass
else
    fail "ids.ibin has $(stat -c %s ids.ibin) bytes"
fi
check "u8: stats" "$bin/nightjar" stats --socket socket --json
at_least "u8: stats count the queries" "$(sed 's/.*"engine"//' out >engine && field queries engine)" 1800
stop_daemon "u8: SIGTERM"

bench_gate "u8 in process" --index u8/root/current "${files[@]}" --concurrency 8 --threads 2
bench_gate "u8 in process with a thread pool" --index u8/root/current "${files[@]}" --io pool
# Arrivals at a rate: all of them answered, and no sooner than they came (no more a second than asked;
# the least of 500 draws of a Poisson process that a run can show is far above 70 %).
bench_gate "u8 at a rate" --index u8/root/current "${files[@]}" --rate 1000 --concurrency 64
at_least "u8 at a rate: queries" "$(field queries out)" 500
at_least "u8 at a rate: not faster" 1300 "$(field qps out)"
bench_gate "u8 resident" --index u8/root/gen-1 "${files[@]}" --memory 256M --concurrency 4
if [[ $(field reads_per_query out) == 0.0000 ]] && grep -q '"resident":true' out; then
    pass
else
    fail "resident search reads: $(cat out)"
fi
check "u8: ladder" "$bin/nightjar" bench --index u8/root/gen-1 "${files[@]}" \
    --search-list 10,20 --search-ratio 0,1.2 --duration 0 --json
if (($(grep -c '"search_list":' out) == 4)); then
    pass
else
    fail "a line for every search list and ratio: $(cat out)"
fi

check "u8: second build" "$bin/nightjar-build" --input u8/base.u8bin --output u8/root/gen-2 \
    --threads 1 --quiet
"$bin/nightjar" verify --digest u8/root/gen-1 >one
"$bin/nightjar" verify --digest u8/root/gen-2 >two
if cmp -s one two && grep -qE '^[0-9a-f]{32}$' one; then
    pass
else
    fail "two builds of the same input have the same digest: $(cat one two)"
fi
check "u8: publish a path" "$bin/nightjar" publish --root u8/root u8/root/gen-2
if [[ $(readlink u8/root/current) == gen-2 ]]; then
    pass
else
    fail "current names $(readlink u8/root/current)"
fi

check "u8: a build of three shards" "$bin/nightjar-build" --input u8/base.u8bin \
    --output u8/root/gen-3 --shards 3 --quiet
check "u8: verify three shards" "$bin/nightjar" verify u8/root/gen-3
bench_gate "u8 in three shards" --index u8/root/gen-3 "${files[@]}"

# --- f32, cosine and ip --------------------------------------------------------------------------

for metric in cosine ip; do
    prepare "$metric" fbin f32 $small "$metric"
    files=(--queries "$metric/queries.fbin" --groundtruth "$metric/truth.bin")
    start_daemon --root "$metric/root" --memory 64M --threads 1
    bench_gate "$metric over the socket" --socket socket "${files[@]}" --concurrency 4
    stop_daemon "$metric: SIGTERM"
    bench_gate "$metric in process" --index "$metric/root/current" "${files[@]}"
done

summary
