#!/usr/bin/env bash
# The soak, overload and frame tests (tests/soak.sh), short and on few vectors: nothing fails, no
# answer is wrong, and those who check would notice. Times are not judged. Ends with
# `N passed, N failed`.
set -uo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-soak.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# Two swaps, with the damaged generation between them.
export SOAK_SECONDS=5 SWAP_SECONDS=1 SWAPS=2
export TMPDIR=$work VECTORS=2000 STEP_SECONDS=1 FRAMES=20000
if [[ $mode != release ]]; then
    # What is freed stays with a sanitizer for a while.
    export FRAMES=4000 FRAMES_ARGS='--growth 8G'
fi
evidence() {
    sed 's/^/  /' out err
}

# part NAME: runs it and has its figures in NAME.json
part() {
    if SOAK_JSON=$1.json "$here/soak.sh" "$bin" "$1" >out 2>err; then
        pass
    else
        fail "$1: exit $?"
    fi
}
# says CLAIM PATTERN FILE
says() {
    if grep -qE -- "$2" "$3"; then
        pass
    else
        fail "$1: '$2' is not in: $(head -c 2000 "$3")"
    fi
}

part swaps
says 'some were swapped, one was refused' '"swaps":[1-9][0-9]*,"refused":[1-9]' swaps.json
says 'nothing failed or was wrong' '"failed":0,"wrong":0,"stale":0,"degraded":0,"busy":0' swaps.json
says 'answers came during swaps too' '"swap":\{"answers":[1-9]' swaps.json
says 'the second generation answered, and well' \
    '"name":"gen-2","answers":[1-9][0-9]*,"recall":(1|0\.9)' swaps.json
says 'no error but the refusals' 'no other error' out

part overload
if (($(grep -cE '"failed":0,"wrong":0' overload.json) == 4)); then
    pass
else
    fail "overload: failed or wrong: $(cat overload.json)"
fi
says 'five times the peak was offered' '"factor":5,"timeout_ms":100' overload.json

part frames
says 'all frames were sent' "\"frames\":$FRAMES," frames.json

summary
