#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that Nightjar needs and this machine lacks.
#
#   install-deps.sh [--check] GROUP...      groups: build test sanitizers lint numa
#
# A package counts as present when what it provides works (a command runs, a header is found), so
# libraries that were installed by other means are accepted, and nothing at all is done, nor apt
# called, when nothing is missing. --check only reports and fails.
set -euo pipefail
export LC_ALL=C

readonly ME="install-deps.sh"
compiler=${CC:-gcc}

have_command() {
    command -v "$1" >/dev/null 2>&1
}

# A header counts when the compiler finds it; without a compiler everything is to be installed.
have_header() {
    have_command "${compiler%% *}" || return 1
    # shellcheck disable=SC2086 # CC may carry arguments
    printf '#include <stddef.h>\n#include <stdarg.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <%s>\n' "$1" |
        $compiler -E -x c - >/dev/null 2>&1
}

# have_clang_link TEXT FLAG...: does a program with this line compile and link?
have_clang_link() {
    have_command clang || return 1
    local probe
    probe=$(mktemp)
    local rc=0
    printf '#include <stddef.h>\n%s\nint main(void) { return 0; }\n' "$1" |
        clang "${@:2}" -x c - -o "$probe" >/dev/null 2>&1 || rc=1
    rm -f "$probe"
    return $rc
}

# Of the interpreter in PATH or of the distribution's.
have_python() {
    python3 -c "import $1" 2>/dev/null || /usr/bin/python3 -c "import $1" 2>/dev/null
}

have_clang_openmp() {
    have_clang_link '#include <omp.h>' -fopenmp
}

have_clang_sanitizers() {
    have_clang_link '' -fsanitize=address
}

# package | test that tells that it is there
readonly BUILD_NEEDS="
make            | have_command make
gcc             | have_command gcc
libc6-dev       | have_header stdlib.h
liburing-dev    | have_header liburing.h
libcjson-dev    | have_header cjson/cJSON.h
libxxhash-dev   | have_header xxhash.h
libhwloc-dev    | have_header hwloc.h
libmicrohttpd-dev | have_header microhttpd.h
"
readonly TEST_NEEDS="
libcmocka-dev   | have_header cmocka.h
parallel        | have_command parallel
rsync           | have_command rsync
curl            | have_command curl
python3-numpy   | have_python numpy
python3-h5py    | have_python h5py
"
readonly SANITIZERS_NEEDS="
clang           | have_command clang
libclang-rt-dev | have_clang_sanitizers
libomp-dev      | have_clang_openmp
"
readonly LINT_NEEDS="
clang-format    | have_command clang-format
clang-tidy      | have_command clang-tidy
clang           | have_command clang
libomp-dev      | have_clang_openmp
cppcheck        | have_command cppcheck
shellcheck      | have_command shellcheck
mypy            | have_command mypy
git             | have_command git
"
# numa-test.sh unpacks a kernel and busybox-static itself: the one would change how this machine
# starts, the other would take the place of its busybox.
readonly NUMA_NEEDS="
qemu-system-x86 | have_command qemu-system-x86_64
"

needs_of() {
    case $1 in
    build) echo "$BUILD_NEEDS" ;;
    test) echo "$TEST_NEEDS" ;;
    sanitizers) echo "$SANITIZERS_NEEDS" ;;
    lint) echo "$LINT_NEEDS" ;;
    numa) echo "$NUMA_NEEDS" ;;
    *)
        echo "$ME: unknown group '$1': want build, test, sanitizers, lint or numa" >&2
        exit 2
        ;;
    esac
}

missing=()
find_missing() {
    missing=()
    local group line package
    local -a probe
    for group in "$@"; do
        while IFS= read -r line; do
            [[ $line == *"|"* ]] || continue
            read -r package <<<"${line%%|*}"
            read -r -a probe <<<"${line#*|}"
            [[ " ${missing[*]-} " == *" $package "* ]] && continue
            "${probe[@]}" || missing+=("$package")
        done <<<"$(needs_of "$group")"
    done
}

check_only=0
if [[ ${1-} == --check ]]; then
    check_only=1
    shift
fi
if (($# == 0)); then
    echo "usage: $ME [--check] GROUP... (build test sanitizers lint numa)" >&2
    exit 2
fi
for group in "$@"; do
    needs_of "$group" >/dev/null
done

find_missing "$@"
if ((${#missing[@]} == 0)); then
    exit 0
fi
if ((check_only)); then
    echo "nightjar: missing: ${missing[*]}; 'make deps' installs them (Debian, Ubuntu)" >&2
    exit 1
fi

if ! have_command apt-get; then
    echo "$ME: missing: ${missing[*]} (Debian's names), and there is no apt-get to install them" >&2
    exit 1
fi
as_root=()
if ((EUID != 0)); then
    if ! have_command sudo; then
        echo "$ME: missing: ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

apt() {
    # ${a[@]+...}: bash before 4.4 takes an empty array for an unset variable
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

known() {
    [[ -n $(apt-cache madison "$1" 2>/dev/null) ]]
}

echo "$ME: installing: ${missing[*]}"
# A fresh machine or container has no package lists.
for package in "${missing[@]}"; do
    if ! known "$package"; then
        apt -qq update
        break
    fi
done
# Where a release folds a package into another (libclang-rt-dev into clang), its name is unknown
# and the re-check below decides.
wanted=()
for package in "${missing[@]}"; do
    if known "$package"; then
        wanted+=("$package")
    fi
done
if ((${#wanted[@]} > 0)); then
    # Stale lists name files that the mirror has dropped: refresh once and retry.
    apt -qq -y --no-install-recommends install "${wanted[@]}" || {
        apt -qq update
        apt -qq -y --no-install-recommends install "${wanted[@]}"
    }
fi

find_missing "$@"
if ((${#missing[@]} > 0)); then
    echo "$ME: still missing after installation: ${missing[*]}" >&2
    exit 1
fi
