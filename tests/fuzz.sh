#!/usr/bin/env bash
# Runs every libFuzzer program of a build directory for a while.
#
#   tests/fuzz.sh BUILD_DIR SECONDS [NAME...]
#
# The corpus grows in BUILD_DIR/corpus/NAME. It starts from the files of tests/golden whose path holds
# the target's word (fuzz_block: tests/golden/block*), and of tests/corpus/NAME: small inputs of
# earlier runs, of which each reaches something that the others do not. A crash input is left in
# BUILD_DIR/crashes and belongs, once fixed, among the golden files. Last line as in run.sh.
set -uo pipefail

if (($# < 2)); then
    echo "usage: tests/fuzz.sh BUILD_DIR SECONDS [NAME...]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
build=$(cd "$1" && pwd) || exit 1
seconds=$2
shift 2
cd "$here/.." || exit 1

export ASAN_OPTIONS="detect_leaks=1:allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"

passed=0 failed=0
for source in "$here"/fuzz_*.c; do
    [[ -e $source ]] || continue
    name=$(basename "$source" .c)
    if (($# > 0)) && [[ " $* " != *" $name "* ]]; then
        continue
    fi
    corpus=$build/corpus/$name
    log=$build/$name.log
    mkdir -p "$corpus" "$build/crashes"
    while IFS= read -r seed; do
        cp -n "$seed" "$corpus/$(basename "$seed")"
    done < <(
        find "$here/golden" -type f -path "*${name#fuzz_}*" -size -256k 2>/dev/null
        find "$here/corpus/$name" -type f 2>/dev/null
    )
    if "$build/tests/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -max_len=65536 -artifact_prefix="$build/crashes/$name-" "$corpus" >"$log" 2>&1; then
        runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log")
        printf '%-28s ok, %s inputs in %s s\n' "$name" "${runs:-?}" "$seconds"
        passed=$((passed + 1))
    else
        printf '%-28s FAILED\n' "$name"
        tail -n 60 "$log" | sed 's/^/    | /'
        failed=$((failed + 1))
    fi
done
if ((passed + failed == 0)); then
    echo "tests/fuzz.sh: nothing ran" >&2
    failed=1
fi
echo "$passed passed, $failed failed"
((failed == 0))
