#!/usr/bin/env bash
# What may be asked beside the nearest of a vector, on the command line: filters, radii, pages, keys
# and recall targets, of a daemon and of an index in process, which must say the same; what is
# refused, and how. Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-questions.XXXXXX") || exit 1
daemon=
few=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    [[ -z $few ]] || kill -KILL "$few" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1

# run COMMAND...: its output in out and err; it must succeed
run() {
    if "$bin/$1" "${@:2}" >out 2>err; then
        pass
    else
        fail "exit $?: $*"
    fi
}
# both CLAIM OPTION...: a search of the daemon and of the index give one output, left in out
both() {
    local claim=$1
    shift
    run nightjar search --index root/gen --memory 64M "$@"
    mv out local
    run nightjar search --socket s "$@"
    if cmp -s local out; then
        pass
    else
        fail "$claim: the daemon and the index differ: $(diff local out | head -n 5)"
    fi
}
# counts CLAIM WANTED PATTERN: so many lines of out have the pattern
counts() {
    local found
    found=$(grep -c -- "$3" out)
    if ((found == $2)); then
        pass
    else
        fail "$1: $found lines have '$3', wanted $2: $(head -n 3 out)"
    fi
}
# refused CLAIM STATUS PHRASE OPTION...: one line on stderr that has the phrase, of `nightjar OPTION...`
refused() {
    local claim=$1 wanted=$2 phrase=$3 status=0
    shift 3
    timeout 120 "$bin/nightjar" "$@" >out 2>err || status=$?
    if ((status == wanted)) && (($(wc -l <err) == 1)) && grep -qF -- "$phrase" err; then
        pass
    else
        fail "$claim: exit $status, wanted $wanted with '$phrase'"
    fi
}
# How many the daemon has answered so far.
queries_answered() {
    "$bin/nightjar" stats --socket s --json | grep -o '"engine":{"queries":[0-9]*' | grep -o '[0-9]*$'
}
until_true() {
    local end=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        kill -0 "$daemon" 2>/dev/null || return 1
    done
}

run nightjar generate --output base.u8bin --count 600 --dim 16 --queries-output q.u8bin --query-count 4
awk 'BEGIN { print "year:u64,lang:labels"; for (i = 0; i < 600; i++)
    print 2000 + i % 20 "," (i % 3 ? "de" : "en") }' >base.csv
mkdir root
run nightjar-build --input base.u8bin --output root/gen --metric l2 --attributes base.csv --threads 1
run nightjar-build --input base.u8bin --output root/plain --metric l2 --calibrate off --threads 1
run nightjar publish --root root gen
"$bin/nightjard" --root root --socket s --memory 64M --threads 1 2>daemon.log &
daemon=$!
until_true "$bin/nightjar" stats --socket s || fail "the daemon starts: $(cat daemon.log)"

# ---- filters: key i has year 2000 + i % 20 ----
ask=(--queries q.u8bin -k 10 --search-list 600)
both 'a filter' "${ask[@]}" --filter 'year = 2003'
counts 'a filter' 40 '^ *[0-9]'
if awk 'NR > 1 && $3 % 20 != 3 { bad = 1 } END { exit bad }' out; then
    pass
else
    fail 'a filter: a hit does not match'
fi
both 'a filter as JSON' "${ask[@]}" --filter 'year = 2003 and lang = "en"' --json
counts 'a filter as JSON' 1 '"filter_plan":"[a-z]*","match_estimate":10}'
both 'a filter that nothing matches' "${ask[@]}" --filter 'year > 2019' --json
counts 'a filter that nothing matches' 4 '"hits":\[\]'

# ---- radius: that of the fifth neighbour of the first query ----
both 'the nearest' "${ask[@]}" --limit 1
radius=$(awk '$1 == 0 && $2 == 5 { print $4 }' out)
both 'a radius' "${ask[@]}" --limit 1 --radius "$radius"
counts 'a radius' 5 '^ *[0-9]'
both 'a radius with more in it' "${ask[@]}" --limit 1 --radius "$radius" -k 3 --json
counts 'a radius with more in it' 1 '"truncated":true'

# ---- pages: three of ten are the thirty nearest ----
both 'thirty at once' --queries q.u8bin --limit 1 -k 30 --search-list 600
mv out thirty
both 'three pages' "${ask[@]}" --limit 1 --pages 3
if cmp -s thirty out; then
    pass
else
    fail "three pages are not the thirty nearest: $(diff thirty out | head -n 5)"
fi
both 'pages to the end' "${ask[@]}" --limit 1 --pages 9 --filter 'year = 2003 and lang = "en"' --json
counts 'pages to the end' 2 '"page":'
counts 'pages to the end' 1 '"last":true'
before=$(queries_answered)
run nightjar search --socket s "${ask[@]}" -k 5 --limit 1 --pages 99 --filter 'year = 2003 and lang = "en"'
if (($(queries_answered) == before + 3)); then # of 10 hits the third page has none
    pass
else
    fail "pages to the end: asked $(($(queries_answered) - before)) times, wanted 3"
fi

# ---- keys ----
both 'like a key' --like 17,42 -k 5 --search-list 600
counts 'like a key' 10 '^ *[0-9]'
if awk 'NR > 1 && $3 == ($1 == 0 ? 17 : 42) { bad = 1 } END { exit bad }' out; then
    pass
else
    fail 'like a key: it is its own neighbour'
fi
both 'like a key that is not there' --like 600 -k 5 --search-list 600 --json
counts 'like a key that is not there' 1 '"unknown_key":true'
run nightjar get --index root/gen 17 0 599
mv out local
run nightjar get --socket s 17 0 599
if cmp -s local out; then
    pass
else
    fail 'get: the daemon and the index differ'
fi
refused 'get of a key that is not there' 1 's: no key 600' get --socket s 17 600
refused 'which keys are there' 1 's: no key 600' get --socket s --exists 17 600
counts 'which keys are there' 1 '^600 no$'

# ---- the bench ----
run nightjar groundtruth --input base.u8bin --queries q.u8bin -k 10 --output truth.bin
run nightjar groundtruth --input base.u8bin --queries q.u8bin --attributes base.csv --filter 'year = 2003' \
    --radius 1e9 --output within.bin
for from in '--socket s' '--index root/gen'; do
    read -ra from_words <<<"$from"
    run nightjar bench "${from_words[@]}" --queries q.u8bin --groundtruth truth.bin -k 10 \
        --search-list 600 --duration 0 --json
    counts "$from: bench" 1 '"recall":1.000000'
    run nightjar bench "${from_words[@]}" --queries q.u8bin --groundtruth within.bin -k 100 \
        --search-list 100 --filter 'year = 2003' --radius 1e9 --duration 0 --json
    counts "$from: bench of a filter" 1 '"match_estimate":30'
    counts "$from: bench within a radius" 1 '"recall":1.000000'
done

# ---- recall: by the curves of a generation that has some ----
both 'a recall target' --queries q.u8bin --recall 0.9 --json
counts 'a recall target' 1 '"expected_recall":'
refused 'a recall target without curves' 1 'no recall curve' search --index root/plain \
    --queries q.u8bin --recall 0.9

# ---- what is refused ----
for from in '--socket s' '--index root/gen'; do
    read -ra from_words <<<"$from"
    question=(search "${from_words[@]}" --queries q.u8bin --search-list 40)
    refused "$from: a predicate that is none" 1 'filter: column' "${question[@]}" --filter 'year >='
    refused "$from: an empty predicate" 2 '--filter: the value is empty' "${question[@]}" --filter ''
    refused "$from: a blank predicate" 1 'filter: column' "${question[@]}" --filter ' '
    refused "$from: an unknown column" 1 'unknown column "yeer"' "${question[@]}" --filter 'yeer = 3'
    refused "$from: a value of another type" 1 'filter: column' "${question[@]}" --filter 'year = "x"'
    refused "$from: a negative radius" 1 'radius' "${question[@]}" --radius -1
    refused "$from: k = 0" 2 '-k' "${question[@]}" -k 0
    refused "$from: a recall of 1.5" 2 'above 0 and below 1' search "${question[@]:1:4}" --recall 1.5
    refused "$from: a recall beside a list" 2 '--recall chooses' "${question[@]}" --recall 0.9
    refused "$from: pages beyond the list" 2 'need a --search-list of 50' "${question[@]}" --pages 5
    refused "$from: keys that are none" 1 'is not a list of keys' search "${question[@]:1:2}" \
        --search-list 40 --like 17,x
    refused "$from: some of the keys" 2 '--limit is for --queries' search "${question[@]:1:2}" \
        --search-list 40 --like 17,18 --limit 1
    refused "$from: keys and queries" 2 'either --queries or --like' "${question[@]}" --like 17
done
# ---- a daemon in which few queries may wait, asked more at once ----
"$bin/nightjard" --root root --socket few --memory 64M --threads 1 --queue 3 2>few.log &
few=$!
until_true "$bin/nightjar" stats --socket few || fail "the daemon of a short queue starts: $(cat few.log)"
run nightjar generate --output more.u8bin --count 100 --dim 16 --queries-output unused.u8bin --query-count 1
run nightjar search --index root/gen --memory 64M --queries more.u8bin -k 3 --search-list 40
mv out local
run nightjar search --socket few --queries more.u8bin -k 3 --search-list 40
if cmp -s local out; then
    pass
else
    fail "a short queue: the daemon and the index differ: $(diff local out | head -n 5)"
fi
run nightjar search --socket few --like 1,2,3,4,5,6,7 -k 3 --search-list 40
counts 'keys at a short queue' 21 '^ *[0-9]'
kill -TERM "$few"
if wait "$few"; then
    pass
else
    fail "the end of the daemon of a short queue: exit $?"
fi
few=

refused 'a filter without attributes' 1 'this index has no attributes' search --index root/plain \
    --queries q.u8bin --search-list 40 --filter 'year = 3'
kill -TERM "$daemon"
if wait "$daemon"; then
    pass
else
    fail "the daemon's end: exit $?"
fi
daemon=
summary
