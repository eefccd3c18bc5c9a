#!/usr/bin/env bash
# What the README tells users to paste works: its marked blocks are taken out of it and run, as they
# stand, on small generated vectors; and every option it names exists. Ends with `N passed, N failed`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1
source_root=$here/..
readme=$source_root/README.md
bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-readme.XXXXXX") || exit 1
daemon=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
PATH=$bin:$PATH
cd "$work" || exit 1

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

# block NAME: the fenced block that follows the comment "<!-- NAME: ...", without its fences.
block() {
    awk -v marker="<!-- $1:" '
        index($0, marker) == 1 { marked = 1; next }
        marked && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$readme"
}

count=5000
[[ $mode == release ]] || count=1200
check "make up vectors" nightjar generate --output base.u8bin --count $count --dim 32 --type u8 \
    --queries-output query.u8bin --query-count 200

# --- quick start ---------------------------------------------------------------------------------

# As a user's shell would, but that the first failure ends it, and the daemon with it. The longest
# wait is that for the daemon, which is over when it has ended.
{
    echo 'set -e'
    # shellcheck disable=SC2016 # for the script, not for us
    echo 'trap '\''kill $(jobs -p) 2>/dev/null || :; wait'\'' EXIT'
    block quick-start
} >quick-start.sh
if (($(grep -c nightjar quick-start.sh) < 8)); then
    fail "README.md has a quick start with a marker"
fi
check "quick start" timeout 300 bash quick-start.sh
if grep -q 'recall@10' out && (($(awk '$1 == 80 && $3 >= 0.9' out | wc -l) == 1)); then
    pass
else
    fail "the quick start's bench finds the neighbours"
fi
if [[ $(stat -c %s hits.ibin 2>&1) == $((8 + 200 * 10 * 4)) ]]; then
    pass
else
    fail "the quick start's search writes its hits"
fi
if [[ $(readlink root/current) == gen-1 && ! -e nightjar.sock ]]; then
    pass
else
    fail "the quick start leaves a published generation and no socket"
fi

block plan >plan.sh
check "plan" bash plan.sh
if grep -q '^  build ' out; then
    pass
else
    fail "the plan has a line for the build"
fi

block plan-made-up >plan.sh
check "plan of made-up vectors" bash plan.sh
if grep -q '1000000000 x 128 u8' out && grep -q '^  build ' out; then
    pass
else
    fail "the plan of made-up vectors has a line for the build"
fi

# --- stages --------------------------------------------------------------------------------------

if ! command -v parallel >/dev/null; then
    skip "stages one by one: GNU parallel is not installed"
else
    {
        echo 'set -e'
        block stages | sed 's/^shards="parallel /&--will-cite /'
    } >stages.sh
    check "stages one by one" timeout 300 bash stages.sh
    check "the same build in one run" nightjar-build --input base.u8bin --output root/gen-whole \
        --shards 4 --quiet
    if [[ -n $(nightjar verify --digest root/gen-whole) &&
        $(nightjar verify --digest root/gen-whole) == \
        $(nightjar verify --digest root/gen-parallel) && ! -e root/gen-parallel.work ]]; then
        pass
    else
        fail "stages one by one make the same generation"
    fi
fi

# --- client --------------------------------------------------------------------------------------

block client >nearest.c
if [[ $mode != release ]]; then
    skip "client example: the libraries want their sanitizer's runtime"
elif check "client example compiles" "${CC:-cc}" -Wall -Wextra -Werror -I"$source_root" \
    -o nearest nearest.c -L"$bin" -lnightjar-client && [[ -x nearest ]]; then
    nightjard --root root --socket socket --memory 0 --threads 1 2>daemon.log &
    daemon=$!
    end=$((SECONDS + 120))
    until nightjar stats --socket socket >out 2>&1; do
        if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > end)); then
            fail "the daemon answers: $(tail -n 1 daemon.log)"
            break
        fi
    done
    check "client example runs" ./nearest socket
    if (($(wc -l <out) == 10)); then
        pass
    else
        fail "the client example prints ten neighbours"
    fi
    kill -TERM "$daemon"
    wait "$daemon" || fail "the daemon ends with status $?"
    daemon=
fi

# --- options -------------------------------------------------------------------------------------

# Every `nightjar ... --option` in the README is in that command's help.
unknown=
# shellcheck disable=SC2016 # backticks are Markdown's
while read -r program rest; do
    command=("$program")
    [[ $program != nightjar ]] || command+=("${rest%% *}")
    help=$("${command[@]}" --help 2>&1)
    while read -r option; do
        grep -qE -- "(^|[ ,])$option( |$)" <<<"$help" || unknown+=" ${command[*]} $option;"
    done < <(grep -oE -- '--[a-z][a-z-]*' <<<"$rest")
done < <(grep -oE 'nightjar(d|-build| [a-z]+) [^`#]*--[^`#&]*' "$readme")
if [[ -z $unknown ]]; then
    pass
else
    fail "README.md names options that do not exist:$unknown"
fi

summary
