#!/usr/bin/env bash
# nightjar doctor on the machine that the tests run on, over a small generation: what it prints, as
# text and as JSON, its exit status, and that it leaves nothing behind. What a machine is judged to
# be is tests/test_doctor.c's. Ends with `N passed, N failed`.
set -euo pipefail
export LC_ALL=C
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh"

bin=${NIGHTJAR_BUILD:?directory of the programs}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-doctor.XXXXXX")
cleanup() {
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

# doctor STATUS ARGUMENT...: runs it with a short measurement; its status must be that.
doctor() {
    local wanted=$1 status=0
    shift
    timeout 120 "$bin/nightjar" doctor --duration 0.01 "$@" >out 2>err || status=$?
    if ((status == wanted)); then
        pass
    else
        fail "doctor $*: exit $status, not $wanted"
    fi
}
# has CLAIM REGEX: a line of the output matches
has() {
    if grep -qE -- "$2" out; then
        pass
    else
        fail "$1: no '$2' in: $(head -c 3000 out)"
    fi
}
hasnot() {
    if grep -qE -- "$2" out; then
        fail "$1: '$2' in: $(head -c 3000 out)"
    else
        pass
    fi
}
# complains CLAIM PHRASE: one line on stderr, by name, with the phrase
complains() {
    if (($(wc -l <err) == 1)) && grep -q '^nightjar: ' err && grep -qF -- "$2" err; then
        pass
    else
        fail "$1: stderr lacks '$2'"
    fi
}

mkdir root
{
    "$bin/nightjar" generate --output base.u8bin --count 2000 --dim 64 --type u8
    "$bin/nightjar-build" --input base.u8bin --output root/gen --degree 16 --quiet
} >/dev/null 2>err || {
    fail "a generation to look at"
    summary
    exit 1
}

# --- text ------------------------------------------------------------------------------------------

# On whatever machine this is: a small budget fits, and reads work. Warnings are fine.
doctor 0 --index root/gen --memory 0 --connections 1
for topic in kernel clock cpus instructions governor numa memory swap overcommit huge-pages mappings \
    locked-memory descriptors index permissions budget file-system device direct-io io_uring; do
    has "one line on $topic" "^(ok   |warn ) $topic +[^ ]"
done
for depth in 1 8 32 128; do
    has "reads at depth $depth" "^(ok   |warn ) reads +depth $depth: [0-9]+ reads/s, mean [0-9]+ us, p99"
done
has "an estimate for queries" '^ok +queries +.* queries/s at most'
has "the vectors of the index" '^ok +index +root/gen: 2000 vectors of 64 u8'
has "a summary" '^ready: [0-9]+ ok, [0-9]+ warn, 0 fail$'
if grep -E '^warn' out | grep -qvF '; remedy: '; then
    fail "every warning has its remedy"
else
    pass
fi
if grep -E '^ok' out | grep -qF '; remedy: '; then
    fail "what is ok needs no remedy"
else
    pass
fi

# With everything in memory, nothing is read, however slow the disk.
doctor 0 --index root/gen --memory 64M
has "a resident index" '^ok +budget .*all blocks: no reads'
has "a resident index reads nothing" '^ok +queries +all blocks are in memory'

mkdir there
doctor 0 --directory there --memory 1M
has "reads of a temporary file" ' reads +depth 128: '
hasnot "no index, no budget" ' (index|budget) '
if [[ -z $(ls -A there) ]]; then
    pass
else
    fail "there/ is not empty: $(ls -A there)"
fi

# --- faults ----------------------------------------------------------------------------------------

doctor 1 --index root/gen --memory 10
has "a budget below codes" '^fail +budget .*remedy: --memory [0-9]+ or more'
has "not ready" '^not ready: [0-9]+ ok, [0-9]+ warn, 1 fail$'
complains "not ready" "not ready to serve: 1 of "
doctor 0 --index root/gen --memory 1000000T # takes no more than it is
doctor 1 --directory there --memory 1000000T
has "a budget beyond memory" '^fail +memory .*available; remedy: '
doctor 1 --root root --memory 0
has "nothing published" '^fail +index .*current.*remedy: nightjar publish --root root GEN'
has "nothing to read" 'not measured'
"$bin/nightjar" publish --root root gen >/dev/null
doctor 0 --root root --memory 0
has "the one published" '^ok +index +root/gen: 2000 vectors'
chmod 777 root
doctor 0 --root root --memory 0
has "a root that anyone may write" '^warn +permissions +root root: mode 0777; remedy: chmod o-w'
chmod 755 root
cp -r root/gen broken
truncate -s 4096 broken/codes.bin
doctor 1 --index broken --memory 0
has "a damaged index" '^fail +index +broken/codes.bin: '
# One failed finding more or less: the disk itself is as good as before.
NIGHTJAR_IO=pool doctor 0 --index root/gen --memory 0
has "reader threads by wish" '^warn +io_uring +.*remedy: '
has "reads by threads" ' reads +depth 128: '

# --- wrong paths and usage -------------------------------------------------------------------------

doctor 1 --directory nowhere
complains "no directory" "nowhere: No such file or directory"
hasnot "no findings of nowhere" '.'
doctor 1 --index base.u8bin
complains "no directory" "base.u8bin: not a directory"
doctor 2 --index root/gen --root root
complains "two places" "one of --index, --root and --directory"
doctor 2 --duration 0
complains "no duration" "--duration"

# --- JSON ------------------------------------------------------------------------------------------

doctor 0 --index root/gen --memory 0 --json
if (($(wc -l <out) == 1)); then
    pass
else
    fail "one object, one line"
fi
has "JSON: the verdict" '^\{"ready":true,"ok":[0-9]+,"warn":[0-9]+,"fail":0,"findings":\[\{"verdict":"'
has "JSON: a finding" '\{"verdict":"ok","topic":"index","found":"root/gen: 2000 [^"]*","remedy":""\}'
has "JSON: reads" '"reads":\[\{"depth":1,"count":[1-9][0-9]*,"per_second":[0-9.]+,"mean_us":[0-9.]+,"p99_us":[0-9.]+,"errno":0\},.*\{"depth":128,.*\}\]\}$'
doctor 1 --index root/gen --memory 10 --json
has "JSON: not ready" '^\{"ready":false,.*"fail":1,.*"verdict":"fail","topic":"budget"'
complains "JSON: not ready" "not ready to serve"
if command -v python3 >/dev/null; then
    if python3 -c 'import json, sys; json.load(sys.stdin)' <out 2>err; then
        pass
    else
        fail "JSON parses"
    fi
else
    skip "JSON parses: no python3"
fi

summary
