#!/usr/bin/env bash
# nightjar-build from the outside: what it refuses, how it says so, and that nothing is left after a
# refusal; and that after a signal or a full disk the same command goes on where it stopped. Ends with
# `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1
# shellcheck source=tests/bytes.sh
source "$(dirname "${BASH_SOURCE[0]}")/bytes.sh" || exit 1

build=${NIGHTJAR_BUILD:?directory of the programs}/nightjar-build
tool=$NIGHTJAR_BUILD/nightjar
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-build.XXXXXX") || exit 1
mounted=()
cleanup() {
    local dir
    for dir in ${mounted[@]+"${mounted[@]}"}; do
        umount -l "$dir" # a ring of a process that has ended may keep it for a moment
    done
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1

# --- inputs ------------------------------------------------------------------------------------

# noise COUNT
noise() {
    head -c "$1" /dev/urandom
}
# u8bin FILE ROWS DIM: random rows
u8bin() {
    { u32 "$2" "$3" && noise $(($2 * $3)); } >"$1"
}

readonly F32_ONE=1065353216 F32_NAN=2143289344 F32_INFINITY=2139095040

u8bin good.u8bin 2000 16
{ u32 10 2000 && zeros 80000; } >wide.fbin
big_rows=6000
[[ $mode == release ]] || big_rows=4000
u8bin big.u8bin $big_rows 64
small=(--degree 16 --build-list 24 --codec pq --code-bytes 8 --quiet)

# --- checks ------------------------------------------------------------------------------------

# refused CLAIM STATUS PHRASE ARGUMENT...: the status, one line on stderr with the phrase, nothing on
# stdout, no output directory.
refused() {
    local claim=$1 wanted=$2 phrase=$3 status
    shift 3
    "$build" "$@" >out 2>err
    status=$?
    if ((status != wanted)); then
        fail "$claim: exit $status, not $wanted"
    elif (($(wc -l <err) != 1)); then
        fail "$claim: not one line on stderr"
    elif ! grep -q '^nightjar-build: ' err || ! grep -qF -- "$phrase" err; then
        fail "$claim: stderr lacks '$phrase'"
    elif [[ -s out ]]; then
        fail "$claim: wrote to stdout"
    elif [[ -e gen || -e gen.work ]]; then
        fail "$claim: left gen or gen.work behind"
        rm -rf gen gen.work
    else
        pass
    fi
}

refused "no arguments" 2 "--input"
refused "no output" 2 "--output" --input good.u8bin
refused "unknown option" 2 "--frobnicate" --input good.u8bin --output gen --frobnicate
refused "unknown metric" 2 "hamming" --input good.u8bin --output gen --metric hamming
refused "unknown codec" 2 "opaque" --input good.u8bin --output gen --codec opaque
refused "calibration that is off and asked for" 2 "needs --calibrate on" --input good.u8bin --output gen \
    --calibrate off --tune-queries good.u8bin
{ u32 10 2000 && zeros 40000; } >wide.f16bin
refused "queries of another type to tune to" 1 "good.u8bin: queries of 16 u8, the input has 2000 f32" \
    --input wide.fbin --output gen --tune-queries good.u8bin --quiet
refused "queries of the stored type to tune to" 1 "wide.f16bin: queries of 2000 f16, the input has 2000 f32" \
    --input wide.fbin --output gen --store f16 --tune-queries wide.f16bin --quiet
refused "codec's other size" 1 "4, 6 or 10" --input good.u8bin --output gen --codec scalar \
    --code-bytes 7 --quiet
refused "degree too small" 2 "--degree" --input good.u8bin --output gen --degree 3
refused "degree not a number" 2 "--degree" --input good.u8bin --output gen --degree many
refused "odd block size" 2 "4096" --input good.u8bin --output gen --block-bytes 5000
refused "stray argument" 2 "stray" --input good.u8bin --output gen stray

refused "missing file" 1 "missing.u8bin" --input missing.u8bin --output gen --quiet
: >empty.u8bin
refused "empty file" 1 "empty.u8bin" --input empty.u8bin --output gen --quiet
cp good.u8bin unknown.dat
refused "unknown format" 1 "unknown.dat" --input unknown.dat --output gen --quiet
head -c 20000 good.u8bin >short.u8bin
refused "truncated file" 1 "short.u8bin" --input short.u8bin --output gen --quiet
{ cat good.u8bin && noise 5; } >long.u8bin
refused "oversized file" 1 "long.u8bin" --input long.u8bin --output gen --quiet
u32 0 16 >none.u8bin
refused "no vectors" 1 "none.u8bin" --input none.u8bin --output gen --quiet
{ u32 1 9000 && noise 9000; } >wide.u8bin
refused "dimension too large" 1 "wide.u8bin" --input wide.u8bin --output gen --quiet
{ u32 3 2 && u32 $F32_ONE $F32_ONE $F32_ONE $F32_NAN $F32_INFINITY $F32_ONE; } >nan.fbin
refused "NaN" 1 "nan.fbin: row 1 has a NaN at dimension 1" --input nan.fbin --output gen --quiet
{ u32 2 2 && u32 $F32_ONE $F32_ONE $F32_INFINITY $F32_ONE; } >infinity.fbin
refused "infinity" 1 "infinity.fbin: row 1 has an infinity at dimension 0" \
    --input infinity.fbin --output gen --quiet
{ u32 3 4 && noise 8 | tr '\0' '\1' && zeros 4; } >zero.u8bin
refused "zero vector" 1 "zero.u8bin: row 2 is a zero vector" \
    --input zero.u8bin --output gen --metric cosine --quiet
{ u32 2 4 && noise 32; } >ids.ibin
refused "ids as vectors" 1 "ids.ibin: i32" --input ids.ibin --output gen --quiet
{ u32 2000 1 && zeros 16000; } >same.u64bin
refused "duplicate keys" 1 "same.u64bin" --input good.u8bin --keys same.u64bin --output gen --quiet
{ echo year:u64,tags:labels && for ((i = 2; i < 17; i++)); do echo "$i,a|b"; done; } >attrs.csv
cp attrs.csv few.csv && echo 'abc,a' >>attrs.csv
refused "an attribute that is no number" 1 'attrs.csv: line 17: column "year": "abc" is no u64' \
    --input good.u8bin --attributes attrs.csv --output gen --quiet
refused "too few attributes" 1 "few.csv: 15 rows behind the header, good.u8bin has 2000 vectors" \
    --input good.u8bin --attributes few.csv --output gen --quiet
echo year:u32 >kind.csv
refused "an attribute of no type" 1 'kind.csv: line 1: column 1: "u32" is no type' \
    --input good.u8bin --attributes kind.csv --output gen --quiet
refused "attributes that are missing" 1 "missing.csv: no such file" \
    --input good.u8bin --attributes missing.csv --output gen --quiet
{ u32 5 1 && zeros 40; } >few.u64bin
refused "too few keys" 1 "few.u64bin" --input good.u8bin --keys few.u64bin --output gen --quiet
refused "budget too small" 1 "the smallest budget that would do is" \
    --input good.u8bin --output gen --memory 1M --quiet
: >file
refused "output below a file" 1 "file/gen" --input good.u8bin --output file/gen --quiet
refused "output in a missing directory" 1 "no/gen" --input good.u8bin --output no/gen --quiet
if ((EUID != 0)); then
    mkdir -m 500 locked
    refused "unwritable directory" 1 "locked/gen" --input good.u8bin --output locked/gen --quiet
elif mkdir locked && chattr +i locked 2>/dev/null; then
    refused "unwritable directory" 1 "locked/gen" --input good.u8bin --output locked/gen --quiet
    chattr -i locked
else
    skip "unwritable directory: root may write anywhere here"
fi

# --- a build that succeeds ---------------------------------------------------------------------

if "$build" --input good.u8bin --output one "${small[@]}" --threads 1 --json >out 2>err &&
    "$build" --input good.u8bin --output two "${small[@]}" --threads 2 >out2 2>err &&
    diff -r --exclude=build-report.json one two >err; then
    pass
else
    fail "one and two threads give identical files"
fi
if grep -q '"vectors": 2000, ' out && (($(wc -l <out) == 1)) && [[ ! -s err ]]; then
    pass
else
    fail "--json prints one object and --quiet nothing"
fi
if "$build" --input good.u8bin --output one "${small[@]}" >out 2>err; then
    fail "an existing output is refused"
elif grep -q one err && [[ ! -e one.work ]] &&
    diff -r --exclude=build-report.json one two >>err; then
    pass
else
    fail "a refused build leaves the existing output alone"
fi
if "$build" --input good.u8bin --plan "${small[@]}" >out 2>err && grep -q '^  graph ' out; then
    pass
else
    fail "--plan works without --output"
fi
if "$build" --plan --count 1000000 --dim 8 --type f32 --memory 120M --json "${small[@]}" >out 2>err &&
    grep -q '"vectors": 1000000, "dim": 8, "type": "f32", ' out && grep -q '"fits": true, ' out &&
    ! grep -q '"shards": 1, ' out; then
    pass
else
    fail "--plan works without --input"
fi
refused "count without plan" 2 "--count" --input good.u8bin --output gen --count 5 --dim 5
refused "type of an input" 2 "--type are for --plan without --input" --input good.u8bin --output gen --type f32
refused "type of a planned input" 2 "--type are for --plan" --plan --input good.u8bin --type f32
refused "plan without a dimension" 2 "--dim" --plan --count 5
refused "shard without stage" 2 "--shard" --input good.u8bin --output gen --shard 0
refused "unknown stage" 2 "encode" --input good.u8bin --output gen --stage encode
refused "too many shards" 1 "at most 22 shards" --input good.u8bin --output gen --shards 23 --quiet
refused "too little replication" 2 "--replication" --input good.u8bin --output gen --replication 0.9
refused "a block too small for a vector" 1 "cannot hold one record" --input wide.fbin --output gen \
    --block-bytes 4096 --quiet
if [[ $mode == release ]]; then
    # Not under a sanitizer: its shadow memory is resident too.
    field() {
        sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$2"
    }
    "$build" --input big.u8bin --plan --json "${small[@]}" >plan 2>err
    if "$build" --input big.u8bin --output fits "${small[@]}" --json >out 2>err &&
        (($(field peak_rss_bytes out) <= $(sed 's/, "scratch_bytes.*//' plan |
            sed -n 's/.*"memory_bytes": \([0-9]*\)/\1/p'))); then
        pass
    else
        fail "peak RSS $(field peak_rss_bytes out) stays below the plan: $(cat plan)"
    fi
    if [[ -e /dev/full ]] && ! "$build" --input good.u8bin --output full "${small[@]}" \
        >/dev/full 2>err && grep -q 'standard output' err; then
        pass
    else
        fail "a summary that cannot be written is an error"
    fi
fi

# --- signals -----------------------------------------------------------------------------------

big=(--input big.u8bin --threads 1 --shards 2 --calibrate off "${small[@]}")
"$build" "${big[@]}" --output whole >out 2>err || fail "a build of two shards"
digest() {
    "$tool" verify --digest "$1" 2>>err
}
wanted=$(digest whole)

# start_build FILE: in the background; back when FILE holds data (or it has ended).
start_build() {
    "$build" "${big[@]}" --output gen >out 2>err &
    pid=$!
    until [[ -s $1 ]] || ! kill -0 "$pid" 2>/dev/null; do
        read -rt 0.01 <> <(:) || :
    done
}
# kept CLAIM: the build that has just failed left nothing, or what it says on a second line.
kept() {
    if [[ -e gen/manifest.json ]]; then
        fail "$1: left a manifest"
    elif [[ -e gen.work ]] && (($(wc -l <err) == 2)) &&
        grep -q '^nightjar-build: finished work is kept in gen.work: ' err; then
        pass
    elif [[ ! -e gen.work && ! -e gen ]] && (($(wc -l <err) == 1)); then
        pass
    else
        fail "$1: $(ls -d gen gen.work 2>/dev/null) are there"
    fi
}
# completed CLAIM: the same command ends as if nothing had happened.
completed() {
    if ! "$build" "${big[@]}" --output gen >out 2>err; then
        fail "$1: the same command does not go on"
    elif [[ $(digest gen) != "$wanted" || -e gen.work ]]; then
        fail "$1: another outcome"
    else
        pass
    fi
    rm -rf gen gen.work
}

signals=(INT TERM HUP)
moments=(gen gen.work/ingest.done gen.work/partition.done gen.work/pack-00001.done)
for i in "${!moments[@]}"; do
    signal=${signals[i % 3]}
    start_build "${moments[i]}"
    kill -s "$signal" "$pid" 2>/dev/null
    wait "$pid"
    status=$?
    if ((status == 0)); then
        skip "SIG$signal at ${moments[i]}: the build was faster"
        rm -rf gen gen.work
        continue
    fi
    if ((status == 1)) && head -n 1 err | grep -q '^nightjar-build: interrupted'; then
        pass
    else
        fail "SIG$signal at ${moments[i]}: exit $status"
    fi
    kept "SIG$signal at ${moments[i]}"
    completed "SIG$signal at ${moments[i]}"
done

# Killed: whatever is there is not a generation, and the same command makes one of it.
for moment in gen gen.work/partition.done gen/nodes.blk; do
    start_build "$moment"
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    if [[ -e gen/manifest.json ]]; then
        skip "killed at $moment: the build was faster"
    elif "$tool" verify gen >out 2>err; then
        fail "killed at $moment: what is left opens"
    else
        pass
    fi
    completed "killed at $moment"
done

# --- no space left -----------------------------------------------------------------------------

if [[ ${NIGHTJAR_MODE-} == tsan ]]; then
    skip "a file size limit: clang's OpenMP runtime does not start under one"
else
    # In units of 1024 bytes: before the first piece, in the partition, in the blocks.
    for limit in 0 16 64; do
        if (ulimit -f $limit && "$build" "${big[@]}" --output gen 2>&1 >/dev/null) | cat >err; then
            fail "a file size limit of $limit is an error"
        else
            kept "a file size limit of $limit"
        fi
        completed "a file size limit of $limit"
    done
fi

mkdir disk
if ((EUID == 0)) && mount -t tmpfs -o size=64k tmpfs disk 2>/dev/null; then
    mounted=("$work/disk")
    # 2000 x 16 bytes and keys and codes are 64 KB: refused at 64k and less before any work, and at
    # more by a write that fails.
    for size in 64k 128k 400k; do
        mount -o "remount,size=$size" disk
        if "$build" --input good.u8bin --output disk/gen "${small[@]}" >out 2>err; then
            fail "a full disk of $size is an error"
        elif ! head -n 1 err | grep -qi 'no space left' || [[ -e disk/gen/manifest.json ]]; then
            fail "a full disk of $size is named and leaves no generation"
        elif [[ $size == 64k && -n $(ls -A disk) ]]; then
            fail "a full disk of $size leaves nothing"
        else
            pass
        fi
    done
    # What the disk took is of use when there is room.
    mount -o "remount,size=64m" disk
    if "$build" --input good.u8bin --output disk/gen "${small[@]}" >out 2>err &&
        [[ $(digest disk/gen) == "$(digest one)" && ! -e disk/gen.work ]]; then
        pass
    else
        fail "a build goes on when the disk has room again"
    fi
else
    skip "full disk: no tmpfs can be mounted"
fi

summary
