#!/usr/bin/env bash
# A build that is killed at any moment, damaged, or run piece by piece ends in the same bytes as one
# that was left alone. Ends with `N passed, N failed[, N skipped]`.
#
#   KILLS=20 tests/e2e_resume.sh       more kills than the default
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1

build=${NIGHTJAR_BUILD:?directory of the programs}/nightjar-build
tool=$NIGHTJAR_BUILD/nightjar
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-resume.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

rows=12000 calibrate=on
[[ $mode == release ]] || rows=4000 calibrate=off
"$tool" generate --output base.u8bin --count "$rows" --dim 32 --threads 2 >out 2>err || exit 1
awk -v rows="$rows" 'BEGIN {
    print "year:u64,tags:labels"
    for (i = 0; i < rows; i++)
        print 1900 + i * 37 % 130 ",t" i % 7 "|u" i % 11
}' >attrs.csv
arguments=(--input base.u8bin --attributes attrs.csv --degree 24 --build-list 32 --code-bytes 8 --shards 3
    --calibrate "$calibrate" --quiet)

digest() {
    "$tool" verify --digest "$1" 2>err
}
# whole CLAIM DIR: the generation is the undisturbed one, and its work directory is gone.
whole() {
    if [[ $(digest "$2") != "$wanted" ]]; then
        fail "$1: another digest"
    elif [[ -e $2.work ]]; then
        fail "$1: the work directory is still there"
    else
        pass
    fi
}

"$build" "${arguments[@]}" --output plain >out 2>err || fail 'an undisturbed build'
wanted=$(digest plain)
[[ -n $wanted ]] || exit 1

# --- kill -9 -----------------------------------------------------------------------------------

start_ns=$(date +%s%N)
"$build" "${arguments[@]}" --output timed >out 2>err || fail 'a second build'
took_ms=$((($(date +%s%N) - start_ns) / 1000000 + 1))
kills=${KILLS:-4}
[[ $mode == release ]] || kills=2
killed=0
for ((i = 0; i < kills; i++)); do
    # In even parts of the time a whole build takes, so that early and late stages are both met.
    at_ms=$((took_ms * (i + 1) / (kills + 1) + RANDOM % (took_ms / kills + 1)))
    timeout --signal=KILL "$(printf '%d.%03d' $((at_ms / 1000)) $((at_ms % 1000)))" \
        "$build" "${arguments[@]}" --output killed >out 2>err
    if (($? == 137)); then
        killed=$((killed + 1))
        # The manifest comes last of all but the removal of the work directory.
        if [[ -e killed/manifest.json && $(digest killed) != "$wanted" ]]; then
            fail "killed after $at_ms ms: the manifest is there, the rest is not"
        fi
    else
        [[ -e killed/manifest.json ]] || fail "build after $killed kills"
        whole "a build killed after $at_ms ms" killed
        rm -rf killed killed.work
    fi
done
if [[ ! -e killed/manifest.json || -e killed.work ]]; then
    "$build" "${arguments[@]}" --output killed >out 2>err || fail "the build after $killed kills"
fi
whole "a build killed $killed times" killed

# Killed while it removed its work: records go first, the job last.
rm -rf killed killed.work
"$build" "${arguments[@]}" --output killed --keep-work >out 2>err || fail 'a build that keeps its work'
rm killed.work/*.done
"$build" "${arguments[@]}" --output killed >out 2>err || fail 'a build killed in its last removal'
whole 'a build killed in its last removal' killed
if "$build" "${arguments[@]}" --output killed >out 2>err; then
    fail 'a complete build begun again: not refused'
elif ! grep -qF 'is already complete' err; then
    fail 'a complete build begun again: no line that says so'
else
    pass
fi
((killed > 0)) || skip 'no kill came before the end of its build'

# --- what is not the same job ------------------------------------------------------------------

"$build" "${arguments[@]}" --output part --stage ingest >out 2>err || fail 'stage ingest alone'
# refused CLAIM PHRASE ARGUMENT...
refused() {
    local claim=$1 phrase=$2
    shift 2
    if "$build" "${arguments[@]}" --output part "$@" >out 2>err; then
        fail "$claim: not refused"
    elif (($(wc -l <err) != 1)) || ! grep -qF -- "$phrase" err; then
        fail "$claim: no line on stderr with \"$phrase\""
    else
        pass
    fi
}
refused 'another degree' 'degree' --degree 32
refused 'another seed' 'seed' --seed 2
refused 'another graph' 'graph' --graph vamana
refused 'another number of shards' 'shards' --shards 4
cp -p base.u8bin saved.u8bin
touch base.u8bin
refused 'a changed input' 'input_modified'
mv saved.u8bin base.u8bin
refused 'a stage too early' 'which is not finished' --stage merge
refused 'a shard that is not there' 'shard 3' --stage graph --shard 3
refused 'a shard of a stage without' 'has no shards' --stage train --shard 0
"$build" "${arguments[@]}" --output part >out 2>err || fail 'going on after stage ingest'
whole 'a build that goes on after one stage' part

# --- damage ------------------------------------------------------------------------------------

# A flipped byte in any file of a finished piece is found, and the run after makes the piece anew.
"$build" "${arguments[@]}" --output hurt --keep-work >out 2>err || fail 'a build that keeps its work'
[[ -e hurt.work/job ]] || fail '--keep-work kept nothing'
# At the start are counts and lengths: one that became smaller would leave bytes that nobody reads, and
# so nobody checks.
for place in partition.own-1:late graph-00001.own:late graph-00001.own:start \
    graph-00001.lent:start graph-00002.lent:late merge-00000.lists:late merge-00000.lists:start \
    pack-00001.order:late graph-00000.visits:late train.codec:late \
    sample.image:late write-00002.keys:late write-00000.keys:start; do
    file=${place%:*}
    if [[ ! -s hurt.work/$file ]]; then
        fail "no file $file in the work directory"
        continue
    fi
    rm -rf hurt/manifest.json hurt.work/merge-*.done hurt.work/pack-*.done hurt.work/geometry.done \
        hurt.work/navigation.done hurt.work/write-*.done hurt.work/keys.done hurt.work/check.done
    case $file in
    merge-*)
        "$build" "${arguments[@]}" --output hurt --stage merge >out 2>err || fail "merge before $file"
        ;;
    pack-*)
        for stage in merge geometry pack; do
            "$build" "${arguments[@]}" --output hurt --stage $stage >out 2>err ||
                fail "$stage before $file"
        done
        ;;
    write-*)
        for stage in merge geometry pack navigation write; do
            "$build" "${arguments[@]}" --output hurt --stage $stage >out 2>err ||
                fail "$stage before $file"
        done
        ;;
    esac
    # Most files are of u32: their second and third bytes make much of a difference.
    at=1
    [[ $place == *:start ]] || at=$(($(stat -c %s "hurt.work/$file") * 4 / 5 / 4 * 4 + 2))
    byte=$(od -An -tu1 -j $at -N 1 "hurt.work/$file")
    # The lowest bit that is set, so that the number becomes smaller, if there is one.
    # shellcheck disable=SC2059 # the format is the byte
    printf "$(printf '\\x%02x' $((byte > 0 ? byte & (byte - 1) : 16)))" |
        dd of="hurt.work/$file" bs=1 seek=$at conv=notrunc status=none
    if "$build" "${arguments[@]}" --output hurt --keep-work >out 2>err; then
        fail "a flipped bit in $place went unnoticed"
    elif ! grep -qF "$file" err; then
        fail "a flipped bit in $place: the file is not named"
    else
        pass
    fi
    "$build" "${arguments[@]}" --output hurt --keep-work >out 2>err ||
        fail "the run after a flipped bit in $place"
    if [[ $(digest hurt) == "$wanted" ]]; then
        pass
    else
        fail "the run after a flipped bit in $place: another digest"
    fi
done
rm -rf hurt hurt.work

# --- piece by piece ----------------------------------------------------------------------------

# each STAGE: its three shards side by side.
each() {
    if command -v parallel >/dev/null; then
        parallel --will-cite -j 2 "$build" "${arguments[@]}" --output pieces --threads 1 \
            --stage "$1" --shard {} ::: 0 1 2 >>out 2>err
    else
        seq 0 2 | xargs -P 2 -I{} "$build" "${arguments[@]}" --output pieces --threads 1 \
            --stage "$1" --shard {} >>out 2>err
    fi
}
for stage in ingest train sample partition graph merge geometry pack navigation write keys check; do
    case $stage in
    graph | merge | pack | write) each $stage ;;
    *) "$build" "${arguments[@]}" --output pieces --stage $stage >out 2>err ;;
    esac || fail "stage $stage alone"
done
whole 'stages run one by one, shards side by side' pieces

summary
