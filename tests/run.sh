#!/usr/bin/env bash
# Runs the test programs of a build directory and the end-to-end scripts, and sums them up.
#
#   tests/run.sh BUILD_DIR [MODE [NAME...]]       NAME: test_block, e2e_daemon; none: all
#
# A program is one line; its output is shown only when it fails. cmocka programs are counted by
# test, scripts (tests/e2e_*.sh) as one each, or by their own last line `N passed, N failed`.
# Exit status 77 is a skip. A script finds the programs through NIGHTJAR_BUILD and may look at
# NIGHTJAR_MODE to do less under a sanitizer. The last line is `N passed, N failed[, N skipped]`;
# the status is 0 only when something passed and nothing failed.
set -uo pipefail

if (($# < 1)); then
    echo "usage: tests/run.sh BUILD_DIR [MODE [NAME...]]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
build=$(cd "$1" && pwd) || exit 1
mode=${2-release}
shift $(($# > 1 ? 2 : 1))
cd "$here/.." || exit 1

# No test asserts a time; this only ends one that hangs.
readonly TIMEOUT_S=${NIGHTJAR_TEST_TIMEOUT:-600}

export NIGHTJAR_BUILD=$build NIGHTJAR_MODE=$mode
# Several programs share the cores: OpenMP threads that spin at barriers would starve the others.
export OMP_WAIT_POLICY=passive
export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1\
:allocator_may_return_null=1:exitcode=99${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="ignore_noninstrumented_modules=1:second_deadlock_stack=1:exitcode=66\
${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
runner=()
if [[ $mode == tsan ]]; then
    # Archer tells TSan of OpenMP's fork, join and barriers; without it every one is a false race.
    clang=$(command -v "${CLANG:-clang}")
    OMP_TOOL_LIBRARIES=$(dirname "$(readlink -f "$clang")")/../lib/libarcher.so
    export OMP_TOOL_LIBRARIES
    if [[ ! -e $OMP_TOOL_LIBRARIES ]]; then
        echo "tests/run.sh: libarcher.so not found: OpenMP code would be reported falsely" >&2
        exit 1
    fi
    # Older TSan runtimes refuse kernels that randomise addresses with more than 28 bits.
    if setarch -R true 2>/dev/null; then
        runner=(setarch -R)
    fi
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-tests.XXXXXX") || exit 1
# Some tests connect as another user, who has to get there.
chmod 711 "$work"
cleanup() {
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# count OUTPUT STATUS: "passed failed skipped" of one program. cmocka's RUN/OK/SKIPPED lines are
# counted instead of its summary, which a crash leaves out.
count() {
    awk -v status="$2" '
        { sub(/\r$/, "") }
        /^\[==========\]/ { open = 0 } # the summary repeats names
        /^\[ RUN      \]/ { run++; open = 1 }
        /^\[       OK \]/ { if (open) ok++; open = 0 }
        /^\[  SKIPPED \]/ { if (open) skip++; open = 0 }
        /^[0-9]+ passed, [0-9]+ failed/ { own = 1; op = $1; of = $3; os = $5 + 0 }
        END {
            if (run) { pass = ok + 0; fail = run - ok - skip; skipped = skip + 0 }
            else if (own) { pass = op; fail = of; skipped = os }
            else if (status == 0) pass = 1
            else if (status == 77) skipped = 1
            if (status != 0 && status != 77 && fail == 0) fail = 1
            print pass + 0, fail + 0, skipped + 0
        }' "$1"
}

# run_one PROGRAM: leaves NAME.out and NAME.result in the work directory and prints the line.
run_one() {
    local program=$1 name start status passed failed skipped line
    name=$(basename "$program" .sh)
    start=$SECONDS
    mkdir -p "$work/$name.tmp"
    TMPDIR="$work/$name.tmp" CMOCKA_MESSAGE_OUTPUT=STDOUT timeout -k 10 "$TIMEOUT_S" \
        ${runner[@]+"${runner[@]}"} "$program" >"$work/$name.out" 2>&1 </dev/null
    status=$?
    read -r passed failed skipped <<<"$(count "$work/$name.out" "$status")"
    rm -rf "$work/$name.tmp"
    printf -v line '%-28s %4d passed, %d failed' "$name" "$passed" "$failed"
    ((skipped == 0)) || line+=", $skipped skipped"
    line+=" ($((SECONDS - start)) s)"
    if ((failed > 0)); then
        case $status in
        124 | 137) line+=" [ended after $TIMEOUT_S s]" ;;
        66 | 99) line+=" [sanitizer report]" ;;
        *) ((status < 128)) || line+=" [signal $((status - 128))]" ;;
        esac
        # One write, so that lines of programs that end together do not mix.
        line+=$'\n'$(sed 's/^/    | /' "$work/$name.out" | tail -n 200)
    fi
    printf '%s\n' "$line"
    echo "$passed $failed $skipped" >"$work/$name.result"
}

# What a sanitizer would not see more of for all its time, unless it is asked for by name: scripts of
# shell around programs that other tests run as well, the soak for ASan, and for TSan programs of
# one thread or whose threads share nothing that other tests do not.
left_out() {
    local names=()
    case $mode in
    asan) names=(e2e_main_job e2e_nightly e2e_plot e2e_python e2e_readme e2e_soak e2e_standby e2e_store
        e2e_units) ;;
    tsan) names=(e2e_build_errors e2e_hnswlib e2e_main_job e2e_nightly e2e_plot e2e_publish e2e_python
        e2e_readme e2e_resume e2e_standby e2e_store e2e_tools e2e_units test_build_store test_calibrate
        test_build_faults test_carve test_engine_store test_generation_damage) ;;
    esac
    [[ " ${names[*]-} " == *" $1 "* ]]
}

# wanted NAME [WANTED...]
wanted() {
    if (($# == 1)); then
        ! left_out "$1"
        return
    fi
    local name=$1 other
    shift
    for other in "$@"; do
        [[ $name != "$other" ]] || return 0
    done
    return 1
}

programs=()
for source in "$here"/test_*.c "$here"/e2e_*.sh; do
    [[ -e $source ]] || continue
    name=$(basename "$source")
    name=${name%.*}
    wanted "$name" "$@" || continue
    if [[ $source == *.c ]]; then
        programs+=("$build/tests/$name")
    else
        programs+=("$source")
    fi
done

# One more than CPUs: many wait for a device, a child or a client.
jobs_limit=${JOBS:-$(($(nproc) + 1))}
for program in ${programs[@]+"${programs[@]}"}; do
    while (($(jobs -rp | wc -l) >= jobs_limit)); do
        wait -n
    done
    run_one "$program" &
done
wait

passed=0 failed=0 skipped=0
for program in ${programs[@]+"${programs[@]}"}; do
    result=$work/$(basename "$program" .sh).result
    # A program whose result is missing was killed with its shell.
    p=0 f=1 s=0
    [[ ! -e $result ]] || read -r p f s <"$result"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
if ((passed + failed == 0)); then
    echo "tests/run.sh: nothing ran" >&2
    failed=1
fi
line="$passed passed, $failed failed"
((skipped == 0)) || line+=", $skipped skipped"
echo "$line"
((failed == 0))
