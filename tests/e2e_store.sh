#!/usr/bin/env bash
# nightjar-build --store from the outside: what is refused, what a generation says of itself, that a
# daemon and a process find the same in it by queries of the input's type, over both sockets, and
# that it can be published by its recall. Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
tool=$bin/nightjar
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-store.XXXXXX") || exit 1
daemon=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
evidence() {
    [[ ! -s out ]] || tail -n 5 out | cut -c 1-500 | sed 's/^/  out: /'
    [[ ! -s err ]] || tail -n 5 err | sed 's/^/  err: /'
    [[ ! -s daemon.log ]] || tail -n 5 daemon.log | sed 's/^/  daemon: /'
}
# check CLAIM COMMAND...
check() {
    local claim=$1
    shift
    if "$@" >out 2>err; then pass; else fail "$claim"; fi
}
# refused CLAIM STATUS PHRASE COMMAND...: with one line that has the phrase
refused() {
    local claim=$1 wanted=$2 phrase=$3 status
    shift 3
    "$@" >out 2>err
    status=$?
    if ((status == wanted && $(wc -l <err) == 1)) && grep -qF -- "$phrase" err; then
        pass
    else
        fail "$claim: exit $status, wanted $wanted with '$phrase'"
    fi
}
bytes() {
    stat -c %s "$1"
}

small=(--degree 16 --code-bytes 16 --quiet)
# 300 floats: of i8s many fit a block, of f32 two
"$tool" generate --output base.fbin --queries-output query.fbin --count 2000 --query-count 50 \
    --dim 300 --type f32 >/dev/null || exit 1
"$tool" generate --output bytes.u8bin --count 500 --dim 300 --type u8 >/dev/null || exit 1
"$tool" generate --output query.u8bin --count 5 --dim 300 --type u8 >/dev/null || exit 1
"$tool" groundtruth --input base.fbin --queries query.fbin --output truth.bin -k 10 \
    >/dev/null 2>&1 || exit 1

# --- what is refused ---------------------------------------------------------------------------

refused "bytes as f16" 1 "u8 vectors cannot be stored as f16" "$bin/nightjar-build" \
    --input bytes.u8bin --output gen --store f16 "${small[@]}"
refused "an unknown type" 2 "--store" "$bin/nightjar-build" --input base.fbin --output gen \
    --store u8 "${small[@]}"
refused "a plan of what cannot be" 1 "u8 vectors cannot be stored as bf16" "$bin/nightjar-build" \
    --plan --count 1000 --dim 8 --type u8 --store bf16

# --- what is built -----------------------------------------------------------------------------

mkdir root
for store in same f16 bf16 i8; do
    check "--store $store builds" "$bin/nightjar-build" --input base.fbin --output "root/$store" \
        --store "$store" "${small[@]}"
    check "--store $store verifies" "$tool" verify "root/$store"
    check "--store $store finds what its sample wants" "$tool" publish --root root "$store" \
        --require-recall 0.9
    "$tool" bench --index "root/$store" --queries query.fbin --groundtruth truth.bin \
        --search-list 50 --duration 0 --json >out 2>err
    if sed -n 's/.*"recall": *\([0-9.]*\).*/\1/p' out | awk '{ exit !($1 > 0.89) }'; then
        pass
    else
        fail "--store $store finds the neighbours of the vectors as given"
    fi
done
if (($(bytes root/f16/nodes.blk) * 10 < $(bytes root/same/nodes.blk) * 7 &&
    $(bytes root/i8/nodes.blk) * 10 < $(bytes root/f16/nodes.blk) * 7)); then
    pass
else
    fail "half the bytes an element make smaller files: $(bytes root/same/nodes.blk)," \
        "$(bytes root/f16/nodes.blk), $(bytes root/i8/nodes.blk)"
fi
"$tool" info root/i8 >out 2>err
if grep -q '^vectors .* i8s, metric l2' out && grep -q '^queries  *f32' out; then
    pass
else
    fail "info tells what is stored and what is asked with"
fi
"$tool" info root/bf16 --json >out 2>err
if grep -q '"type":"bf16","query_type":"f32"' out; then
    pass
else
    fail "so does its JSON"
fi

# --- what is served ----------------------------------------------------------------------------

"$bin/nightjard" --root root --socket socket --http-socket http.sock --memory 0 2>daemon.log &
daemon=$!
end=$((SECONDS + 120))
until "$tool" stats --socket socket >/dev/null 2>&1 || ((SECONDS > end)); do
    kill -0 "$daemon" 2>/dev/null || break
done
ask=(--queries query.fbin -k 10 --search-list 50 --beam-width 1)
"$tool" search --socket socket "${ask[@]}" --limit 50 >served 2>err
"$tool" search --index root/i8 --memory 0 "${ask[@]}" --limit 50 >local 2>>err
if [[ -s served ]] && cmp -s served local; then
    pass
else
    fail "a daemon answers as a process does"
fi
refused "queries of another type" 1 "takes f32" "$tool" search --socket socket \
    --queries query.u8bin -k 10 --search-list 50
if command -v curl >/dev/null; then
    vector=$(printf '%.0s0.25,' {1..300})
    printf '{"vector":[%s],"k":3,"search_list":20}' "${vector%,}" >body
    curl --silent --unix-socket http.sock --output out --data @body http://nightjar/search 2>err
    if grep -q '"distance"' out; then pass; else fail "fractions are asked for by HTTP"; fi
else
    skip "fractions by HTTP: no curl"
fi
"$tool" stats --socket socket --json >out 2>err
if grep -q '"store":[[:space:]]*"i8s"' out && grep -q '"type":[[:space:]]*"f32"' out; then
    pass
else
    fail "statistics tell both types"
fi
kill "$daemon"
wait "$daemon" 2>/dev/null
daemon=

summary
