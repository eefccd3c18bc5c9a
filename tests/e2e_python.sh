#!/usr/bin/env bash
# The Python client and what comes with it, against the programs: its unit tests, the README's
# example, an installation by pip. Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C.UTF-8 OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1
bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
package=$(cd "$here/../tools/python" && pwd) || exit 1

if [[ $mode == tsan ]]; then
    echo 'skipped: one connection after another from Python shows no race that clients in C do not'
    exit 77
fi
# The distribution's interpreter has the distribution's numpy, whatever comes first in PATH.
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import numpy, sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [[ -z $python ]]; then
    echo 'skipped: no python3 (3.9 or newer) with numpy'
    exit 77
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-python.XXXXXX") || exit 1
daemon=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
PATH=$bin:$PATH
cd "$work" || exit 1

evidence() {
    [[ ! -s out ]] || tail -n 60 out | sed 's/^/  | /'
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

# --- unit tests ----------------------------------------------------------------------------------

# Counted one by one; each line of `-v` ends in what became of it.
PYTHONPATH=$package timeout 500 "$python" -W error -m unittest discover -v \
    -s "$package/tests" >out 2>&1
status=$?
passed=$(grep -cE ' \.\.\. ok$|^ok$' out)
while read -r line; do
    skip "$line"
done < <(grep -E ' \.\.\. skipped ' out)
if ((status != 0)); then
    fail "unit tests: exit $status"
elif ((passed < 40)); then
    fail "unit tests: only $passed of them ran"
fi

version=$(sed -n 's/^#define NIGHTJAR_VERSION "\(.*\)"$/\1/p' "$here/../common/version.h")
check "the package has Nightjar's version" \
    grep -qFx "__version__ = \"$version\"" "$package/nightjar/version.py"

# --- the README's example ------------------------------------------------------------------------

# block NAME FILE: the fenced block that follows the comment "<!-- NAME: ...", without its fences.
block() {
    awk -v marker="<!-- $1:" '
        index($0, marker) == 1 { marked = 1; next }
        marked && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$2"
}
count=5000
[[ $mode == release ]] || count=1200
check "make up vectors" nightjar generate --output base.u8bin --count $count --dim 32 --type u8 \
    --queries-output query.u8bin --query-count 200
mkdir root
check "build" nightjar-build --input base.u8bin --output root/gen-1 --quiet
check "publish" nightjar publish --root root gen-1
nightjard --root root --socket nightjar.sock --memory 32M --threads 1 2>daemon.log &
daemon=$!
end=$((SECONDS + 120))
until nightjar stats --socket nightjar.sock >out 2>&1; do
    if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > end)); then
        fail "the daemon answers: $(tail -n 1 daemon.log)"
        break
    fi
done
block python "$here/../README.md" >example.py
if (($(grep -c 'index\.' example.py) < 3)); then
    fail "README.md has a Python example with a marker"
fi
check "the README's example" env PYTHONPATH="$package" "$python" -W error example.py
if (($(grep -cE '^[0-9]+ [0-9.]+$' out) == 10)); then
    pass
else
    fail "the README's example prints ten neighbours"
fi

# --- installation --------------------------------------------------------------------------------

if ! "$python" -c 'import venv, ensurepip, setuptools, wheel, sys
sys.exit(int(setuptools.__version__.split(".")[0]) < 61)' 2>/dev/null; then
    skip "pip: venv, setuptools 61 or wheel are not installed"
else
    # setuptools builds beside its sources.
    cp -r "$package" copy
    check "venv" "$python" -m venv --system-site-packages venv
    check "pip install" venv/bin/python -m pip --disable-pip-version-check install --no-index \
        --no-build-isolation --no-cache-dir ./copy
    check "the example with the installed package" venv/bin/python -W error example.py
    check "py.typed is installed" venv/bin/python -c '
import nightjar, os
assert "venv" in nightjar.__file__, nightjar.__file__
assert os.path.exists(os.path.join(os.path.dirname(nightjar.__file__), "py.typed"))'
    venv/bin/nightjar-hdf5 --version >out 2>&1
    if [[ $(cat out) == "nightjar-hdf5 $version" ]]; then
        pass
    else
        fail "nightjar-hdf5 is installed"
    fi
fi

kill -TERM "$daemon"
wait "$daemon" || fail "the daemon ends with status $?"
daemon=
summary
