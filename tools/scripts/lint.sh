#!/usr/bin/env bash
# All of `make lint`. Each check is one line; its findings follow when it fails.
#
#   lint.sh [CHECK...]       format includes sizes shell python cppcheck tidy; none: all
#
# The flags of the build come from the Makefile: CPPFLAGS, AVX2_CFLAGS, AVX512_CFLAGS, VNNI_CFLAGS.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

readonly LINES_MAX=900 BYTES_MAX=1048576
jobs_limit=${JOBS:-$(nproc)}
read -r -a cpp_flags <<<"${CPPFLAGS--D_GNU_SOURCE -I.}"
shopt -s nullglob
sources=(common/*.c layout/*.c builder/*.c query/*.c tools/*.c tests/*.c)
headers=(common/*.h layout/*.h builder/*.h query/*.h tools/*.h tests/*.h)
scripts=(tools/scripts/*.sh tests/*.sh .ci/run)
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-lint.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

check_format() {
    clang-format --dry-run --Werror "${sources[@]}" "${headers[@]}"
}

check_includes() {
    tools/scripts/check-includes.sh
}

# Tracked and new files, not what git ignores.
check_sizes() {
    local file lines bytes rc=0
    while IFS= read -r -d '' file; do
        [[ -f $file ]] || continue
        bytes=$(stat -c %s "$file")
        if ((bytes > BYTES_MAX)); then
            echo "$file: $bytes bytes: want at most $BYTES_MAX"
            rc=1
        fi
        [[ $file == *.[ch] || $file == *.sh || $file == *.py ]] || continue
        lines=$(wc -l <"$file")
        if ((lines > LINES_MAX)); then
            echo "$file: $lines lines: want at most $LINES_MAX"
            rc=1
        fi
    done < <(git ls-files -z --cached --others --exclude-standard)
    return $rc
}

check_shell() {
    shellcheck "${scripts[@]}"
}

# Strictly, as tools/python/pyproject.toml says; with the distribution's NumPy.
check_python() {
    (cd tools/python && mypy --no-error-summary --cache-dir "$work/mypy")
}

check_cppcheck() {
    cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
        --error-exitcode=1 --suppressions-list=tools/scripts/cppcheck.supp \
        -j "$jobs_limit" "${cpp_flags[@]}" "${sources[@]}"
}

# tidy_one SOURCE
tidy_one() {
    local isa=""
    case $1 in
    *_avx2.c) isa=${AVX2_CFLAGS-} ;;
    *_avx512.c) isa=${AVX512_CFLAGS-} ;;
    *_vnni.c) isa=${VNNI_CFLAGS-} ;;
    esac
    local model="-include tools/scripts/lint_model.h"
    [[ $1 != common/error.c ]] || model=""
    # shellcheck disable=SC2086 # flags are words
    clang-tidy --quiet "$1" -- -std=c17 -fopenmp ${CPPFLAGS--D_GNU_SOURCE -I.} $isa $model 2>/dev/null
}
export -f tidy_one

check_tidy() {
    # Longest first: one large file at the end would leave a core idle.
    wc -c "${sources[@]}" | grep -v ' total$' | sort -rn | awk '{ print $2 }' |
        xargs -P "$jobs_limit" -I{} bash -c 'tidy_one {}'
}

checks=("$@")
((${#checks[@]} > 0)) || checks=(format includes sizes shell python cppcheck tidy)
passed=0 failed=0
for check in "${checks[@]}"; do
    start=$SECONDS
    if "check_$check" >"$work/out" 2>&1; then
        printf '%-10s ok (%d s)\n' "$check" $((SECONDS - start))
        passed=$((passed + 1))
    else
        printf '%-10s FAILED (%d s)\n' "$check" $((SECONDS - start))
        sed 's/^/    | /' "$work/out"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
((failed == 0))
