#!/usr/bin/env bash
# The whole path on made-up vectors: generate, build, publish, serve, query. `make demo` runs it.
#
#   demo.sh BUILD_DIR [VECTORS]
#
# The daemon gets memory for the codes and a part of the blocks, so that it reads from disk.
# Works in a temporary directory (some 60 MB for the default of 100,000 vectors) and removes it.
set -euo pipefail

if (($# < 1)); then
    echo "usage: demo.sh BUILD_DIR [VECTORS]" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
vectors=${2-100000}
PATH=$build:$PATH

work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-demo.XXXXXX")
daemon=""
cleanup() {
    if [[ -n $daemon ]]; then
        kill -TERM "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$work"

# step COMMAND...: shows the command, then runs it.
step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

step nightjar generate --output base.u8bin --queries-output query.u8bin \
    --count "$vectors" --query-count 1000 --dim 128 --type u8 --seed 1
step nightjar groundtruth --input base.u8bin --queries query.u8bin --output truth.bin -k 100 --metric l2
mkdir root
step nightjar-build --input base.u8bin --output root/gen-1 --degree 64 --code-bytes 32
step nightjar publish --root root gen-1

printf '\n$ nightjard --root root --socket nightjar.sock --memory 16M &\n'
nightjard --root root --socket nightjar.sock --memory 16M &
daemon=$!
# Until it answers, but 30 s at most.
for ((attempt = 1; ; attempt++)); do
    if nightjar stats --socket nightjar.sock >/dev/null 2>&1; then
        break
    fi
    if ! kill -0 "$daemon" 2>/dev/null || ((attempt == 300)); then
        echo "demo: the daemon did not come up" >&2
        exit 1
    fi
    sleep 0.1
done

step nightjar bench --socket nightjar.sock --queries query.u8bin --groundtruth truth.bin -k 10 \
    --search-list 10,20,40,80 --concurrency 16 --duration 2

printf '\n$ kill -TERM %s\n' "\$!"
kill -TERM "$daemon"
status=0
wait "$daemon" || status=$?
daemon=""
if ((status != 0)); then
    echo "demo: the daemon ended with status $status" >&2
    exit 1
fi
echo
echo "demo: done"
