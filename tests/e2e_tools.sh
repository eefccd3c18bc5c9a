#!/usr/bin/env bash
# nightjar and nightjard from the outside: what they refuse, how they say so (one line that starts
# with the program's name, exit 1 or 2), and that nothing is left after a refusal; then the
# conversions. Ends with `N passed, N failed[, N skipped]`.
set -euo pipefail
export LC_ALL=C
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh"
# shellcheck source=tests/bytes.sh
source "$(dirname "${BASH_SOURCE[0]}")/bytes.sh"

bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-tools.XXXXXX")
daemon=
mounted=()
cleanup() {
    local dir
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null || :
    for dir in ${mounted[@]+"${mounted[@]}"}; do
        umount "$dir" || :
    done
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

# check CLAIM COMMAND...: succeeds, with nothing on stderr
check() {
    local claim=$1
    shift
    if ! "$@" >out 2>err; then
        fail "$claim: exit $?"
    elif [[ -s err ]]; then
        fail "$claim: wrote to stderr"
    else
        pass
    fi
}
# says CLAIM PHRASE: the output of the last check has it
says() {
    if grep -qF -- "$2" out; then
        pass
    else
        fail "$1: '$2' is not in: $(head -c 500 out)"
    fi
}
# same CLAIM FILE FILE
same() {
    if cmp -s "$2" "$3"; then
        pass
    else
        fail "$1: $2 and $3 differ"
    fi
}
# refused CLAIM STATUS PHRASE PROGRAM ARGUMENT...: the status, one line on stderr with the program's
# name and the phrase, and the file `made` is not there.
refused() {
    local claim=$1 wanted=$2 phrase=$3 program=$4 status=0
    shift 4
    rm -rf made*
    timeout 120 "$bin/$program" "$@" >out 2>err || status=$?
    if ((status != wanted)); then
        fail "$claim: exit $status, not $wanted"
    elif (($(wc -l <err) != 1)); then
        fail "$claim: not one line on stderr"
    elif ! grep -q "^$program: " err || ! grep -qF -- "$phrase" err; then
        fail "$claim: stderr lacks '$phrase'"
    elif compgen -G 'made*' >/dev/null; then
        fail "$claim: left $(echo made*) behind"
    else
        pass
    fi
}
# flip FILE OFFSET: changes one byte
flip() {
    local old
    old=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059 # the format is the byte
    printf "$(printf '\\x%02x' $((old ^ 255)))" |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# copy_generation: a fresh copy of the generation in broken/
copy_generation() {
    rm -rf broken
    cp -r root/gen broken
}

# --- usage -----------------------------------------------------------------------------------------

for command in search get bench publish rollback list prune info verify stats top reload doctor groundtruth codes \
    generate convert; do
    check "$command --help" "$bin/nightjar" "$command" --help
    says "$command --help" "nightjar $command"
    refused "$command --frobnicate" 2 "--frobnicate" nightjar "$command" --frobnicate
done
check "help" "$bin/nightjar" help
says "help" "groundtruth"
check "--version" "$bin/nightjar" --version
says "--version" "nightjar "
refused "no command" 2 "no command" nightjar
refused "unknown command" 2 "frobnicate: no such command" nightjar frobnicate
refused "missing option" 2 "--queries" nightjar groundtruth --input base.u8bin --output made.bin
refused "unknown metric" 2 "hamming" nightjar groundtruth --input a --queries b --output made.bin \
    --metric hamming
refused "unknown type" 2 "u4" nightjar generate --output made.u8bin --count 9 --dim 4 --type u4
refused "no dimension" 2 "--dim" nightjar generate --output made.u8bin --count 9 --dim 0
refused "socket and index" 2 "either --socket or --index" nightjar search --socket a --index b \
    --queries c --search-list 10
refused "neither socket nor index" 2 "either --socket or --index" nightjar bench --queries c \
    --groundtruth d --search-list 10
refused "a rate through the socket" 2 "--rate needs --index" nightjar bench --socket a \
    --queries c --groundtruth d --search-list 10 --rate 100
refused "k above L" 2 "k is 20, more than --search-list 10" nightjar search --index root/gen \
    --queries q.u8bin -k 20 --search-list 10
refused "k above one L of a ladder" 2 "k is 20, more than --search-list 10" nightjar bench \
    --index root/gen --queries q.u8bin --groundtruth t.bin -k 20 --search-list 40,10
refused "bad ratio" 2 "not a list of decimal numbers" nightjar bench --index root/gen \
    --queries q.u8bin --groundtruth t.bin --search-list 40 --search-ratio 1.1,x
refused "bad list" 2 "--search-list" nightjar bench --index root/gen --queries q.u8bin \
    --groundtruth t.bin --search-list 40,,50

# --- inputs ----------------------------------------------------------------------------------------

check "generate u8" "$bin/nightjar" generate --output base.u8bin --count 600 --dim 16 \
    --queries-output q.u8bin --query-count 20
check "generate f32" "$bin/nightjar" generate --output base.fbin --count 300 --dim 16 --type f32 \
    --queries-output q.fbin --query-count 20
refused "type against suffix" 1 "made.fbin: .fbin holds f32" nightjar generate \
    --output made.fbin --count 9 --dim 4 --type u8
refused "queries over the base" 2 "the same file" nightjar generate --output made.u8bin --count 9 \
    --dim 4 --queries-output made.u8bin
refused "queries that cannot be written" 1 "no/made.u8bin" nightjar generate --output made.u8bin \
    --count 9 --dim 4 --queries-output no/made.u8bin

# groundtruth and search read queries through different code.
gt=(nightjar groundtruth --input base.u8bin --output made.bin -k 10 --queries)
refused "missing file" 1 "missing.u8bin: no such file" "${gt[@]}" missing.u8bin
: >empty.u8bin
refused "empty file" 1 "empty.u8bin" "${gt[@]}" empty.u8bin
cp q.u8bin q.dat
refused "unknown format" 1 "q.dat" "${gt[@]}" q.dat
head -c 200 q.u8bin >short.u8bin
refused "truncated file" 1 "short.u8bin" "${gt[@]}" short.u8bin
{ cat q.u8bin && zeros 3; } >long.u8bin
refused "oversized file" 1 "long.u8bin" "${gt[@]}" long.u8bin
{ u32 4294967295 4294967295 && zeros 64; } >huge.u8bin
refused "header that overflows" 1 "huge.u8bin" "${gt[@]}" huge.u8bin
refused "a directory" 1 "root.u8bin" "${gt[@]}" root.u8bin
refused "other type" 1 "q.fbin" "${gt[@]}" q.fbin
# codes: from all of a sample that is too small to choose on, to a table and JSON of each.
check "truth for codes" "$bin/nightjar" groundtruth --input base.u8bin --queries q.u8bin \
    --output codes-truth.bin -k 10
codes=(nightjar codes --input base.u8bin --groundtruth codes-truth.bin --queries)
check "codes" "$bin/nightjar" "${codes[@]:1}" q.u8bin --codec pq,scalar,opq,auto --code-bytes 16,4
for phrase in "@14" "pq                      16" "opq                      4" "auto: pq                 4" \
    "scalar                   6"; do
    says "codes" "$phrase"
done
# Sixteen bytes for sixteen dimensions leave little to mistake.
if awk '$1 == "pq" && $2 == 16 && $8 > 0.97 { good = 1 } END { exit !good }' out; then
    pass
else
    fail "codes: one byte a dimension finds nearly all: $(cat out)"
fi
check "codes as JSON" "$bin/nightjar" "${codes[@]:1}" q.u8bin --metric ip --codec opq --json
says "codes as JSON" '"codec": "opq", "code_bytes": 16'
refused "unknown codec" 2 "--codec pq,lzw" "${codes[@]}" q.u8bin --codec pq,lzw
refused "codes of other queries" 1 "q.fbin" "${codes[@]}" q.fbin
refused "codes without a truth" 1 "q.u8bin" nightjar codes --input base.u8bin --queries q.u8bin \
    --groundtruth q.u8bin

refused "k above n" 1 "k is 601, but base.u8bin has only 600 rows" nightjar groundtruth \
    --input base.u8bin --queries q.u8bin --output made.bin -k 601
refused "budget too small" 1 "too small for 20 queries" nightjar groundtruth --input base.u8bin \
    --queries q.u8bin --output made.bin --memory 10K
refused "output in a missing directory" 1 "no/made.bin" nightjar groundtruth --input base.u8bin \
    --queries q.u8bin --output no/made.bin -k 10
mkdir taken.bin
refused "output is a directory" 1 "taken.bin" nightjar groundtruth --input base.u8bin \
    --queries q.u8bin --output taken.bin -k 10
if ((EUID != 0)); then
    mkdir -m 500 locked
elif mkdir locked && ! chattr +i locked 2>/dev/null; then
    rmdir locked
fi
if [[ -d locked ]]; then
    refused "unwritable directory" 1 "locked/t.bin" nightjar groundtruth --input base.u8bin \
        --queries q.u8bin --output locked/t.bin -k 10
    ((EUID != 0)) || chattr -i locked
else
    skip "unwritable directory: root may write anywhere here"
fi
readonly F32_ONE=1065353216 F32_NAN=2143289344
{ u32 2 3 && u32 $F32_ONE $F32_ONE $F32_ONE $F32_ONE $F32_NAN $F32_ONE; } >nan.fbin
{ u32 2 3 && u32 $F32_ONE $F32_ONE $F32_ONE 0 0 0; } >zero.fbin
{ u32 1 3 && u32 $F32_ONE $F32_ONE $F32_ONE; } >one.fbin
refused "NaN in the base" 1 "nan.fbin: row 1 has a NaN at dimension 1" nightjar groundtruth \
    --input nan.fbin --queries one.fbin --output made.bin -k 1
refused "zero vector with cosine" 1 "zero.fbin: row 1 is a zero vector" nightjar groundtruth \
    --input zero.fbin --queries one.fbin --output made.bin -k 1 --metric cosine

# --- a generation ----------------------------------------------------------------------------------

small=(--degree 16 --build-list 24 --code-bytes 8 --quiet)
mkdir root
# Keys that need more than 32 bits: row + 2^32.
{
    u32 600 1
    for ((row = 0; row < 600; row++)); do
        u32 $row 1
    done
} >keys.u64bin
"$bin/nightjar-build" --input base.u8bin --output root/gen "${small[@]}" >/dev/null
"$bin/nightjar-build" --input base.u8bin --output root/keyed --keys keys.u64bin "${small[@]}" \
    >/dev/null
"$bin/nightjar-build" --input base.fbin --output root/cosine --metric cosine "${small[@]}" >/dev/null
"$bin/nightjar-build" --input base.u8bin --output root/sharded --shards 2 "${small[@]}" >/dev/null
"$bin/nightjar" groundtruth --input base.u8bin --queries q.u8bin --output t.bin -k 10
check "info" "$bin/nightjar" info root/sharded
says "info counts the shards" "shards            2, replication at most "
check "verify a generation of two shards" "$bin/nightjar" verify root/sharded

# The other way to the graph.
says_graph() {
    check "info of $1" "$bin/nightjar" info "root/$1"
    says "info of $1 names the graph" "build             $2, degree 16, list $3, "
}
check "build by vamana" "$bin/nightjar-build" --input base.u8bin --output root/vamana --graph vamana \
    "${small[@]}"
says_graph vamana vamana 24
says_graph gen pipnn 0
check "verify a generation by vamana" "$bin/nightjar" verify root/vamana
check "info as JSON" "$bin/nightjar" info --json root/vamana
says "info as JSON names the graph" '"graph":"vamana","degree":16,"build_list":24,'
for graph in gen vamana; do
    check "bench of $graph" "$bin/nightjar" bench --index root/$graph --queries q.u8bin \
        --groundtruth t.bin -k 10 --search-list 40 --duration 0 --json
    if grep -q '"recall":\(0\.9[5-9]\|1\)' out; then
        pass
    else
        fail "recall of $graph: $(head -c 200 out)"
    fi
done
refused "another graph" 2 "'hnsw' is none of pipnn|vamana" nightjar-build --input base.u8bin --output root/hnsw \
    --graph hnsw

# Scalar codes, of four bits unless a size says otherwise; recall is against brute force.
check "build with scalar codes" "$bin/nightjar-build" --input base.u8bin --output root/scalar \
    --codec scalar --degree 16 --build-list 24 --quiet
check "verify scalar codes" "$bin/nightjar" verify root/scalar
check "info" "$bin/nightjar" info root/scalar
says "info names the codec and its size" "codec             scalar, 10 bytes a vector"
check "build with scalar codes of two bits" "$bin/nightjar-build" --input base.fbin \
    --output root/scalar2 --metric cosine --codec scalar --code-bytes 6 --degree 16 \
    --build-list 24 --quiet
check "verify scalar codes of two bits" "$bin/nightjar" verify root/scalar2
check "search by scalar codes" "$bin/nightjar" search --index root/scalar --queries q.u8bin -k 10 \
    --search-list 40 --output found.ibin
check "bench with scalar codes" "$bin/nightjar" bench --index root/scalar --queries q.u8bin \
    --groundtruth t.bin -k 10 --search-list 40 --duration 0 --json
if grep -q '"recall":\(0\.9[5-9]\|1\)' out; then
    pass
else
    fail "recall of scalar codes: $(head -c 200 out)"
fi
refused "a size that scalar codes have not" 1 "4, 6 or 10" nightjar-build --input base.u8bin \
    --output made --codec scalar --code-bytes 8 --quiet

search=(nightjar search --search-list 20 --index)
{ u32 1 3 && zeros 3; } >one.u8bin
refused "queries of another dimension" 1 "one.u8bin: queries of 3 dimensions, root/gen has 16" \
    "${search[@]}" root/gen --queries one.u8bin
refused "queries of another type" 1 "q.fbin: f32 queries, root/gen takes u8" \
    "${search[@]}" root/gen --queries q.fbin
refused "missing queries" 1 "missing.u8bin: no such file" \
    "${search[@]}" root/gen --queries missing.u8bin
refused "truncated queries" 1 "short.u8bin" "${search[@]}" root/gen --queries short.u8bin
{ u32 1 16 && u32 $F32_ONE $F32_NAN && zeros 56; } >nan16.fbin
refused "NaN in a query" 1 "nan16.fbin: row 0 has a NaN at dimension 1" \
    "${search[@]}" root/cosine --queries nan16.fbin
{ u32 1 16 && zeros 64; } >zero16.fbin
refused "zero query with cosine" 1 "zero16.fbin: row 0 is a zero vector" \
    "${search[@]}" root/cosine --queries zero16.fbin
refused "search: k above n" 1 "k is 601, but root/gen has only 600 vectors" nightjar search \
    --index root/gen --queries q.u8bin -k 601 --search-list 700
refused "bench: k above n" 1 "k is 601, but root/gen has only 600 vectors" nightjar bench \
    --index root/gen --queries q.u8bin --groundtruth t.bin -k 601 --search-list 700
refused "memory below codes" 1 "10240" nightjar search --index root/gen --queries q.u8bin \
    --search-list 20 --memory 10K
refused "memory that is no size" 1 "lots" nightjar search --index root/gen --queries q.u8bin \
    --search-list 20 --memory lots
refused "ground truth of fewer neighbours" 1 "t.bin: 10 neighbours a query" nightjar bench \
    --index root/gen --queries q.u8bin --groundtruth t.bin -k 11 --search-list 20
refused "ground truth of other queries" 1 "t.bin: neighbours of 20 queries, wanted 600" \
    nightjar bench --index root/gen --queries base.u8bin --groundtruth t.bin --search-list 20
refused "ground truth of another base" 1 "but the index has 300 vectors" nightjar bench \
    --index root/cosine --queries q.fbin --groundtruth t.bin --search-list 20
head -c 500 t.bin >t.short
refused "truncated ground truth" 1 "t.short" nightjar bench --index root/gen --queries q.u8bin \
    --groundtruth t.short --search-list 20

check "search as a table" "$bin/nightjar" search --index root/keyed --queries base.u8bin --limit 3 \
    -k 2 --search-list 40
says "64-bit keys" " 4294967298 "
check "search as JSON" "$bin/nightjar" search --index root/keyed --queries base.u8bin --limit 3 \
    -k 2 --search-list 40 --json
says "64-bit keys in JSON" '{"key":4294967298,"distance":0}'
if (($(wc -l <out) == 3)); then
    pass
else
    fail "one object a query"
fi

# all_of FILE NAME: the values of a member, a line each
all_of() {
    grep -o "\"$2\":[0-9.]*" "$1" | sed 's/.*://'
}
# same_numbers CLAIM FILE NAME FILE NAME: the same values in the same order, and there are 20
same_numbers() {
    local left right
    left=$(all_of "$2" "$3" | sed -n 1,20p)
    right=$(all_of "$4" "$5" | sed -n 1,20p)
    if [[ $left == "$right" && $(wc -l <<<"$left") == 20 ]]; then
        pass
    else
        fail "$1: $3 in $2 and $5 in $4 differ"
    fi
}
block_bytes=$(sed -n 's/.*"block_bytes":[[:space:]]*\([0-9]*\).*/\1/p' root/gen/manifest.json)
# One read in flight: then the blocks a query reads are the same every time.
twenty=(search --queries q.u8bin --search-list 20 --beam-width 1 --json)
check "search to be explained" "$bin/nightjar" "${twenty[@]}" --index root/gen
mv out plain.json
check "search explained" "$bin/nightjar" "${twenty[@]}" --index root/gen --explain
mv out explained.json
for name in query reads cache_hits key distance; do
    same_numbers "explained answers are the plain ones" plain.json $name explained.json $name
done
# explained_adds_up FILE: a line is consistent, and the last is the means of the others
explained_adds_up() {
    awk -v block_bytes="$block_bytes" '
        function value(name) {
            if (!match($0, "\"" name "\":[0-9.]+")) { bad = bad " no " name; return 0 }
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) + 0
        }
        function near(a, b) { return a - b < 0.01 && b - a < 0.01 }
        /^\{"query":/ {
            n++
            reads += value("reads"); hops += value("hops"); total += value("total_us")
            if (value("read_bytes") != value("reads") * block_bytes) bad = bad " bytes"
            if (value("hops") == 0 || value("exact_distances") < 10) bad = bad " hops"
            if (value("code_distances") == 0 || value("failed_blocks") != 0) bad = bad " codes"
            if (!near(value("queued_us") + value("cpu_us") + value("wait_us"), value("total_us")))
                bad = bad " times"
            if (value("cpu_us") == 0) bad = bad " cpu"
        }
        /^\{"queries":/ {
            if (value("queries") != n || !near(value("reads"), reads / n) ||
                !near(value("hops"), hops / n) || !near(value("total_us"), total / n))
                bad = bad " means"
            if (value("total_p50_us") > value("total_p99_us")) bad = bad " percentiles"
            means = NR
        }
        END { if (bad != "" || n != 20 || means != 21) { print "wrong:" bad; exit 1 } }' "$1"
}
check "explained numbers add up" explained_adds_up explained.json
check "search explained, all in memory" "$bin/nightjar" "${twenty[@]}" --index root/gen --explain \
    --memory 1G
mv out resident.json
same_numbers "all in memory: nothing is read" <(yes '"none":0' | head -n 20) none resident.json reads
check "explained numbers of cached blocks add up" explained_adds_up resident.json
check "search explained, as a table" "$bin/nightjar" search --index root/gen --queries q.u8bin \
    --search-list 20 --explain --output ids.ibin
says "search explained, as a table" "  total_us"
if awk '{ width[length($0)]++; if ($1 ~ /^[0-9]+$/) rows++; else other = other $1 " " }
    END { for (w in width) widths++; exit !(rows == 20 && other == "query mean p50 p99 " && widths == 1) }' \
    out && [[ $(stat -c %s ids.ibin) == $((8 + 20 * 10 * 4)) ]]; then
    pass
else
    fail "an explanation is a line a query and three of all, aligned; hits go to the file"
fi
refused "keys that do not fit an id" 1 "does not fit its 32-bit ids" nightjar search \
    --index root/keyed --queries q.u8bin --search-list 20 --output made.ibin

# --- vectors by their keys -------------------------------------------------------------------------

# Row r of base.u8bin has key r in gen, and 2^32 + r in keyed.
check "get, to a file" "$bin/nightjar" get --index root/sharded 599 0 17 --output got.u8bin
{ u32 3 16 && tail -c 16 base.u8bin && head -c 24 base.u8bin | tail -c 16 &&
    dd if=base.u8bin bs=1 skip=$((8 + 17 * 16)) count=16 status=none; } >wanted.u8bin
same "vectors are those of their rows" got.u8bin wanted.u8bin
check "get" "$bin/nightjar" get --index root/keyed $(((1 << 32) + 17)) $(((1 << 32) + 599))
{
    for row in 17 599; do
        printf '%d' $(((1 << 32) + row))
        dd if=base.u8bin bs=1 skip=$((8 + row * 16)) count=16 status=none | od -An -v -tu1 -w16 | tr -s ' '
    done
} >wanted
same "a vector is a line of its key and its elements" out wanted
check "get as JSON" "$bin/nightjar" get --index root/gen 17 --json
says "get as JSON" '{"key":17,"found":true,"node":'
check "info of a key" "$bin/nightjar" info root/gen --key 17
says "info of a key" 'key 17: node '
check "keys that are there" "$bin/nightjar" get --index root/gen --exists 0 599
says "keys that are there" '599 yes'
refused "a key that is not there" 1 "root/gen: no key 600" nightjar get --index root/gen 0 600 601
refused "a key below all" 1 "root/keyed: no key 5" nightjar get --index root/keyed 5 --output made.u8bin
refused "existence of a key that is not there" 1 "root/gen: no key 600" nightjar get --index root/gen \
    --exists 600 1 --json
says "the others are told of all the same" '{"key":1,"found":true,"node":'
refused "info of a key that is not there" 1 "root/gen: no key 600" nightjar info root/gen --key 600
refused "get: no key" 2 "KEY" nightjar get --index root/gen
refused "get: a key that is none" 2 "'-1' is no key" nightjar get --index root/gen -- -1
refused "get: a key of 65 bits" 2 "is no key" nightjar get --index root/gen 18446744073709551616
refused "get: a file and text" 2 "--output goes with neither" nightjar get --index root/gen 1 --json \
    --output made.u8bin
refused "get: a file of another type" 1 "made.fbin" nightjar get --index root/gen 1 --output made.fbin
copy_generation
flip broken/keys.bin 100
refused "get from a damaged page" 1 "keys.bin: page 0: checksum mismatch" nightjar get --index broken 17
copy_generation
flip broken/nodes.blk 100
"$bin/nightjar" get --index broken --json $(seq 0 599) >out 2>err || :
if grep -qF "nodes.blk: block 0: checksum mismatch" err; then
    pass
else
    fail "get from a damaged block: $(head -c 200 err)"
fi

# --- a broken generation ---------------------------------------------------------------------------

check "verify" "$bin/nightjar" verify root/gen
if "$bin/nightjar" info --json root/gen | grep '"attributes":\[\],"files"' >out; then
    pass
else
    fail "info of a generation without attributes"
fi
refused "no generation" 1 "nowhere" nightjar verify nowhere
refused "an empty directory" 1 "manifest.json" nightjar verify taken.bin
for file in nodes.blk codes.bin codec.bin navigation.bin hot.bin sample.bin keys.bin manifest.json; do
    copy_generation
    rm "broken/$file"
    refused "verify without $file" 1 "$file" nightjar verify broken
    refused "search without $file" 1 "$file" "${search[@]}" broken --queries q.u8bin
    copy_generation
    truncate -s -1 "broken/$file"
    refused "verify a truncated $file" 1 "$file" nightjar verify broken
    refused "info of a truncated $file" 1 "$file" nightjar info broken
    copy_generation
    flip "broken/$file" $(($(stat -c %s "broken/$file") / 2))
    refused "verify a flipped $file" 1 "$file" nightjar verify broken
done
copy_generation
flip broken/nodes.blk $((block_bytes * 2 + 100))
refused "verify names the block" 1 "nodes.blk: block 2" nightjar verify broken
check "search with a broken block" "$bin/nightjar" search --index broken --queries base.u8bin \
    --search-list 100 --json
says "search with a broken block" '"degraded":true'
copy_generation
sed -i 's/"format_version":[[:space:]]*[0-9]*/"format_version": 99/' broken/manifest.json
refused "another version" 1 "99" nightjar verify broken
refused "search another version" 1 "99" "${search[@]}" broken --queries q.u8bin

# --- publish ---------------------------------------------------------------------------------------

refused "publish: missing root" 1 "nowhere" nightjar publish --root nowhere gen
refused "publish: missing generation" 1 "nothing" nightjar publish --root root nothing
refused "publish: elsewhere" 1 "not a directory of the root" nightjar publish --root root broken/
refused "publish: dot" 1 "." nightjar publish --root root .
mkdir root/half
refused "publish: unfinished" 1 "root/half" nightjar publish --root root half
cp -r root/gen root/short
truncate -s -1 root/short/codes.bin
refused "publish: truncated" 1 "codes.bin" nightjar publish --root root short
if [[ ! -e root/current && ! -L root/current ]]; then
    pass
else
    fail "a refused publish changes nothing"
fi

# --- the daemon ------------------------------------------------------------------------------------

refused "nightjard: no socket" 2 "--socket" nightjard --root root
refused "nightjard: nothing published" 1 "root" nightjard --root root --socket socket
refused "nightjard: missing root" 1 "nowhere" nightjard --root nowhere --socket socket
"$bin/nightjar" publish --root root gen >out
refused "nightjard: long socket path" 1 "socket path" nightjard --root root \
    --socket "$(printf '%0200d' 0)"
refused "nightjard: socket in a missing directory" 1 "no/socket" nightjard --root root \
    --socket no/socket
: >plain
refused "nightjard: socket is a file" 1 "plain" nightjard --root root --socket plain
refused "nightjard: memory" 1 "5120" nightjard --root root --socket socket --memory 10K
refused "nightjard: broken generation" 1 "codes.bin" nightjard --index root/short --socket socket
refused "stats: no daemon" 1 "socket" nightjar stats --socket socket
refused "stats: a file" 1 "plain" nightjar stats --socket plain
refused "stats: long path" 1 "socket path" nightjar stats --socket "$(printf '%0200d' 0)"
refused "search: no daemon" 1 "socket" nightjar search --socket socket --queries q.u8bin \
    --search-list 20

# start ARGUMENT...: a daemon, when it answers
start() {
    "$bin/nightjard" --socket socket "$@" 2>daemon.log &
    daemon=$!
    local end=$((SECONDS + 120))
    until "$bin/nightjar" stats --socket socket >out 2>err; do
        if ! kill -0 "$daemon" 2>/dev/null || ((SECONDS > end)); then
            fail "nightjard $*: $(tail -n 1 daemon.log)"
            return 1
        fi
    done
}
start --root root --threads 1
says "stats" "vector_count: 600"
refused "nightjard: socket in use" 1 "socket" nightjard --root root --socket socket
over=(nightjar search --search-list 20 --socket socket)
refused "daemon: queries of another dimension" 1 "one.u8bin: queries of 3 dimensions, socket has 16" \
    "${over[@]}" --queries one.u8bin
refused "daemon: queries of another type" 1 "q.fbin: f32 queries, socket takes u8" \
    "${over[@]}" --queries q.fbin
refused "daemon: k above n" 1 "k is 601, but socket has only 600 vectors" nightjar search \
    --socket socket --queries q.u8bin -k 601 --search-list 700
check "the daemon still answers" "$bin/nightjar" search --socket socket --queries q.u8bin \
    --search-list 20 --output ids.ibin
check "daemon: search" "$bin/nightjar" "${twenty[@]}" --socket socket
mv out plain.json
check "daemon: search explained" "$bin/nightjar" "${twenty[@]}" --socket socket --explain
mv out daemon.json
check "daemon: explained numbers add up" explained_adds_up daemon.json
for name in reads cache_hits key; do
    same_numbers "daemon: explained answers are the plain ones" plain.json $name daemon.json $name
done
# Its budget holds every block, too.
for name in reads hops exact_distances code_distances; do
    same_numbers "daemon and index count alike" resident.json $name daemon.json $name
done
# The daemon may have seen the publish by itself before it is asked.
cp -r root/gen root/next
"$bin/nightjar" publish --root root next >out
check "reload" "$bin/nightjar" reload --socket socket
says "reload" "next: live "
check "reload again" "$bin/nightjar" reload --socket socket
says "reload again" "next: live already"
check "reload --json" "$bin/nightjar" reload --socket socket --json
says "reload --json" '{"name":"next","generation":"'
says "reload --json" '"swapped":false}'
ln -sfn short root/current
refused "reload: a bad generation" 1 "short/codes.bin" nightjar reload --socket socket
check "stats: a bad generation" "$bin/nightjar" stats --socket socket
says "stats: a bad generation" "refused_name: short"
check "the daemon still answers" "$bin/nightjar" search --socket socket --queries q.u8bin \
    --search-list 20 --output ids.ibin
"$bin/nightjar" publish --root root gen >out
check "reload: a good one" "$bin/nightjar" reload --socket socket
says "reload: a good one" "gen: live "
refused "reload: no daemon" 1 "nowhere" nightjar reload --socket nowhere
refused "reload: no socket" 2 "--socket" nightjar reload
if ((EUID == 0)) && command -v setpriv >/dev/null; then
    # Somebody else, who can reach the program and the socket.
    cp "$bin/nightjar" stranger
    chmod 0755 . stranger
    chmod 0666 socket
    status=0
    setpriv --reuid 54321 --regid 54321 --clear-groups ./stranger reload --socket socket \
        >out 2>err || status=$?
    if ((status == 1)) && grep -q "^nightjar: .*only the daemon's user" err; then
        pass
    else
        fail "reload of a stranger: exit $status"
    fi
else
    skip "reload of a stranger: not root"
fi
# A daemon that was killed leaves its socket file, which the next replaces.
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || :
if [[ -S socket ]]; then
    start --index root/gen --io pool --threads 1
    says "a stale socket is replaced; stats name the pool" "pool"
    refused "reload: a fixed index" 1 "--index" nightjar reload --socket socket
    kill -TERM "$daemon"
    status=0
    wait "$daemon" || status=$?
    daemon=
    if ((status == 0)) && [[ ! -e socket ]]; then
        pass
    else
        fail "SIGTERM: exit $status"
    fi
else
    fail "a killed daemon leaves its socket"
fi
if [[ $mode == release ]]; then
    # Low enough that registered buffers are refused; where root is exempt this is a plain start.
    # shellcheck disable=SC2016 # expanded by the inner shell
    check "RLIMIT_MEMLOCK 0" bash -c 'ulimit -l 0 && exec "$0" "$@"' "$bin/nightjar" bench \
        --index root/gen --queries q.u8bin --groundtruth t.bin --search-list 40 --duration 0 --json
    says "RLIMIT_MEMLOCK 0" '"recall":'
fi

# Recall compares rows with rows; one line says so, whatever the number of points.
if "$bin/nightjar" bench --index root/keyed --queries q.u8bin --groundtruth t.bin --search-list 20,40 \
    --duration 0 >out 2>err && (($(wc -l <err) == 1)) &&
    grep -qF 'warning: root/keyed: built with --keys' err; then
    pass
else
    fail "bench of an index with keys: $(cat err)"
fi

# --- conversions -----------------------------------------------------------------------------------

to() {
    check "convert $*" "$bin/nightjar" convert --input "$1" --output "$2" "${@:3}"
}
for path in "u8bin bvecs" "u8bin npy" "fbin fvecs" "fbin npy"; do
    read -r from via <<<"$path"
    to "base.$from" "via.$via"
    to "via.$via" "back.$from"
    same "$from to $via and back" "base.$from" "back.$from"
done
to base.u8bin wide.fbin
to wide.fbin narrow.u8bin
same "u8 through f32" base.u8bin narrow.u8bin
to base.u8bin half.f16bin
to half.f16bin narrow.u8bin
same "u8 through f16" base.u8bin narrow.u8bin
to base.u8bin signed.i8bin --scale 0.49
to base.u8bin typed.npy --type f32
to typed.npy back.u8bin
same "u8 through an .npy of f32" base.u8bin back.u8bin
to base.u8bin part.u8bin --offset 598 --limit 10
same "the last two rows" part.u8bin <(u32 2 16 && tail -c 32 base.u8bin)
refused "narrowing that is not exact" 1 "base.fbin: row 0 has" nightjar convert --input base.fbin \
    --output made.u8bin
refused "narrowing names the dimension" 1 "at dimension 0: without --scale, not exact in u8" \
    nightjar convert --input base.fbin --output made.u8bin
refused "scaled out of range" 1 "out of range for i8" nightjar convert --input base.u8bin \
    --output made.i8bin --scale 1
refused "a scale of nothing" 2 "--scale: wanted more than 0" nightjar convert --input base.u8bin \
    --output made.i8bin --scale 0
refused "offset beyond the end" 1 "--offset 600" nightjar convert --input base.u8bin \
    --output made.bvecs --offset 600
refused "an unknown suffix" 1 "made.xyz" nightjar convert --input base.u8bin --output made.xyz
refused "vectors to ids" 1 "i32 holds ids" nightjar convert --input base.u8bin --output made.ivecs
refused "onto itself" 2 "the same file" nightjar convert --input base.u8bin --output base.u8bin
to t.bin t.ivecs
to t.ivecs t.ibin
to t.ibin t2.bin
to t2.bin t2.ivecs
same "ground truth to ids and back" t.ivecs t2.ivecs
to ids.ibin ids.ivecs
check "bench takes ids alone" "$bin/nightjar" bench --index root/gen --queries q.u8bin \
    --groundtruth t2.bin --search-list 100 --duration 0 --json
says "bench takes ids alone" '"recall":'

# DiskANN's data files and those of two suffixes differ in name only.
to base.u8bin data.bin --to diskann
same "to a data file" base.u8bin data.bin
to data.bin back.u8bin --from diskann --type u8
same "from a data file" base.u8bin back.u8bin
to data.bin wide.npy --from diskann --type u8
to wide.npy narrow.u8bin
same "a data file through .npy" base.u8bin narrow.u8bin
to base.u8bin wide.bin --to diskann --type f32
same "to a data file of f32" wide.fbin wide.bin
to data.bin again.bin --from diskann --type u8 --to diskann
same "a data file to a data file" data.bin again.bin
refused "a data file of unknown type" 2 "--type is needed" nightjar convert --from diskann \
    --input data.bin --output made.u8bin
refused "a data file of another type" 1 "data.bin: 9608 bytes, but its header (600 rows of 16 f32)" \
    nightjar convert --from diskann --type f32 --input data.bin --output made.fbin

# Ground truth apart and together, and answers of unequal number.
to t.bin t.ivecs --distances-output t.fvecs
to t.ivecs t2.bin --distances t.fvecs
same "ids and distances apart and together" t.bin t2.bin
to t.bin range.bin --to range
to range.bin t2.bin --from range
same "rows to answers within a radius and back" t.bin t2.bin
# 3 queries with 2, 0 and 1 neighbours
{
    u32 3 3 2 0 1 7 8 9
    u32 0 0x3f800000 0x40000000
} >range.bin
to range.bin range.ivecs --from range --distances-output range.fvecs
same "answers within a radius to ids" range.ivecs <(u32 2 7 8 2 0xffffffff 0xffffffff 2 9 0xffffffff)
same "their distances" range.fvecs \
    <(u32 2 0 0x3f800000 2 0x7f800000 0x7f800000 2 0x40000000 0x7f800000)
to range.ivecs range2.bin --to range --distances range.fvecs
same "ids to answers within a radius" range.bin range2.bin
to range.bin part.bin --from range --to range --offset 2
same "the last answers within a radius" part.bin <(u32 1 1 1 9 0x40000000)
refused "a truth of k nearest as one within a radius" 1 "t.bin: " nightjar convert --from range \
    --input t.bin --output made.bin
refused "distances of another truth" 1 "range.fvecs: 3 rows of 2 f32" nightjar convert \
    --input t.ivecs --distances range.fvecs --output made.bin
refused "distances that are not there" 1 "t.ivecs: has no distances" nightjar convert \
    --input t.ivecs --distances-output made.fvecs --output made.bin
cp t.bin kept.fvecs
refused "ids that are no floats" 1 "made.fbin: .fbin holds f32" nightjar convert --input t.bin \
    --output made.fbin --distances-output made.fvecs
refused "ids that are no floats, beside old distances" 1 "made.fbin: .fbin holds f32" nightjar convert \
    --input t.bin --output made.fbin --distances-output kept.fvecs
same "the old distances" kept.fvecs t.bin
refused "distances that are no ids" 1 "made.ivecs: .ivecs holds i32" nightjar convert \
    --input t.bin --output made.bin --distances-output made.ivecs
refused "distances of vectors" 2 "are for ground truth" nightjar convert --from diskann --type u8 \
    --input data.bin --distances t.fvecs --output made.u8bin
refused "an output over another" 2 "the same file as --output" nightjar convert --input t.bin \
    --output made.ivecs --distances-output made.ivecs
refused "no index of hnswlib" 1 "data.bin: not an hnswlib index" nightjar convert --from hnswlib \
    --input data.bin --output made.fbin --keys-output made.u64bin
refused "an index without a place for labels" 2 "--keys-output is needed" nightjar convert \
    --from hnswlib --input data.bin --output made.fbin
refused "keys of what has none" 2 "are for --from hnswlib" nightjar convert --input base.u8bin \
    --output made.bvecs --keys-output made.u64bin

# --- exact answers of a part -------------------------------------------------------------------------

# Rows by their number: the first ones and the others, which are files of their own too.
{
    echo id:u64,half:labels
    for ((i = 0; i < 600; i++)); do
        echo "$i,$((i < 300 ? 0 : 1))"
    done
} >a.csv
to base.u8bin tail.u8bin --offset 300
check "truth of the tail" "$bin/nightjar" groundtruth --input tail.u8bin --queries q.u8bin \
    --output tail.bin -k 20
# distances FILE: behind 20 queries' 20 ids
distances() {
    tail -c 1600 "$1"
}
for filter in 'id >= 300' 'half = "1"' 'not id < 300'; do
    check "truth where $filter" "$bin/nightjar" groundtruth --input base.u8bin --queries q.u8bin \
        --output part.bin -k 20 --attributes a.csv --filter "$filter"
    same "distances where $filter" <(distances tail.bin) <(distances part.bin)
done
for ((i = 0; i < 20; i++)); do
    echo 'id >= 300'
done >filters.txt
check "truth by a filter a query" "$bin/nightjar" groundtruth --input base.u8bin \
    --queries q.u8bin --output part2.bin -k 20 --attributes a.csv --filters filters.txt
same "one filter and as many as there are queries" part.bin part2.bin
check "truth where little is left" "$bin/nightjar" groundtruth --input base.u8bin \
    --queries q.u8bin --output few.bin -k 3 --attributes a.csv --filter 'id = 7' --threads 1
to few.bin few.ivecs --limit 1
same "absent neighbours" few.ivecs <(u32 3 7 0xffffffff 0xffffffff)
refused "the truth of a filter for a search without one" 1 "few.bin: query 0 has 1 neighbours" \
    nightjar publish --root root root/gen --require-recall 0.5 --queries q.u8bin -k 2 \
    --groundtruth few.bin --search-list 40
check "all within a radius" "$bin/nightjar" groundtruth --input base.u8bin --queries q.u8bin \
    --output all.bin --radius 1e9 --attributes a.csv --filter 'id >= 300'
says "all within a radius" "6000 within the radius of 20 queries"
check "the nearest within a radius" "$bin/nightjar" groundtruth --input base.u8bin \
    --queries q.u8bin --output most.bin --radius 1e9 --cap 20 --attributes a.csv --filter 'id >= 300'
says "the nearest within a radius" "400 within the radius of 20 queries; 20 have more than 20"
to most.bin most.truth --from range
same "a radius with a cap is the k nearest" most.truth part.bin
refused "an unknown column" 1 'unknown column "yeer"' nightjar groundtruth --input base.u8bin \
    --queries q.u8bin --output made.bin --attributes a.csv --filter 'yeer = 1'
refused "attributes of another base" 1 "a.csv: 600 rows behind the header for 300 vectors" \
    nightjar groundtruth --input tail.u8bin --queries q.u8bin --output made.bin --attributes a.csv \
    --filter 'id = 1'
refused "a filter without attributes" 2 "--attributes is needed" nightjar groundtruth \
    --input base.u8bin --queries q.u8bin --output made.bin --filter 'id = 1'
refused "attributes without a filter" 2 "--filter or --filters is needed" nightjar groundtruth \
    --input base.u8bin --queries q.u8bin --output made.bin --attributes a.csv
refused "k and a radius" 2 "-k and --radius" nightjar groundtruth --input base.u8bin \
    --queries q.u8bin --output made.bin -k 10 --radius 5
refused "a cap without a radius" 2 "--cap is for --radius" nightjar groundtruth \
    --input base.u8bin --queries q.u8bin --output made.bin --cap 10
refused "a radius that takes in too much" 1 "do not fit the memory" nightjar groundtruth \
    --input base.u8bin --queries base.u8bin --output made.bin --radius 1e9 --memory 1M

check "attributes with the vectors" "$bin/nightjar" generate --output g.u8bin --count 500 --dim 4 \
    --attributes g.csv --seed 3 --tags 9
check "attributes of vectors" "$bin/nightjar" generate --input g.u8bin --attributes g2.csv --seed 3 \
    --tags 9
same "attributes with and of vectors" g.csv g2.csv
refused "attributes over the vectors" 2 "the same file as the vectors'" nightjar generate \
    --input g.u8bin --attributes g.u8bin
refused "an input alone" 2 "--attributes or --queries-output is needed" nightjar generate \
    --input g.u8bin
refused "vectors of no dimension" 2 "--dim: missing" nightjar generate --output made.u8bin --count 9
refused "an input and an output" 2 "not with --output" nightjar generate --input g.u8bin \
    --attributes made.csv --output made.u8bin

# Rows 0 1 4 255 and 10 2 7 255: halves go to the even number.
{
    u32 2 4
    printf '\0\1\4\377\12\2\7\377'
} >two.u8bin
check "means of two vectors" "$bin/nightjar" generate --input two.u8bin --queries-output means.u8bin \
    --query-count 3
same "means of two vectors" means.u8bin <(
    u32 3 4
    printf '\5\2\6\377\5\2\6\377\5\2\6\377'
)
check "means of many" "$bin/nightjar" generate --input g.u8bin --queries-output hard.u8bin \
    --query-count 50 --attributes g3.csv --seed 3 --tags 9 --threads 1
same "attributes beside means" g.csv g3.csv
check "the same means" "$bin/nightjar" generate --input g.u8bin --queries-output hard2.u8bin \
    --query-count 50 --seed 3 --threads 2
same "the same means" hard.u8bin hard2.u8bin
check "other means" "$bin/nightjar" generate --input g.u8bin --queries-output hard2.u8bin \
    --query-count 50 --seed 4
if cmp -s hard.u8bin hard2.u8bin; then
    fail "another seed gave the same means"
else
    pass
fi
{
    u32 1 4
    printf '\0\1\4\377'
} >one.u8bin
refused "means of one vector" 1 "one.u8bin: 1 rows of u8, wanted at least 2 vectors" \
    nightjar generate --input one.u8bin --queries-output made.u8bin
refused "means of no file" 1 "nosuch.u8bin: no such file" nightjar generate --input nosuch.u8bin \
    --queries-output made.u8bin
refused "means of another type" 1 "made.fbin: .fbin holds f32" nightjar generate --input g.u8bin \
    --queries-output made.fbin
refused "means over the vectors" 2 "the same file as the vectors'" nightjar generate --input g.u8bin \
    --queries-output g.u8bin
refused "lengths of vectors that are there" 2 "not with --output or --lengths" nightjar generate \
    --input g.u8bin --queries-output made.u8bin --lengths 1
refused "lengths of bytes" 1 "sigma of lengths is 1 of u8, wanted f32" nightjar generate \
    --output made.u8bin --count 9 --dim 4 --lengths 1
refused "lengths of a negative sigma" 2 "--lengths" nightjar generate --output made.fbin --count 9 \
    --dim 4 --type f32 --lengths -1

# --- results that cannot be written ------------------------------------------------------------------

if [[ -e /dev/full ]]; then
    status=0
    "$bin/nightjar" info root/gen >/dev/full 2>err || status=$?
    if ((status == 1)) && grep -q '^nightjar: standard output: No space left' err; then
        pass
    else
        fail "a full standard output: exit $status"
    fi
fi
mkdir disk
if ((EUID == 0)) && mount -t tmpfs -o size=64k tmpfs disk 2>/dev/null; then
    mounted=("$work/disk")
    refused "generate on a full disk" 1 "o space left" nightjar generate --output disk/x.u8bin \
        --count 100000 --dim 16
    "$bin/nightjar" generate --output many.u8bin --count 2000 --dim 16
    refused "convert on a full disk" 1 "o space left" nightjar convert --input many.u8bin \
        --output disk/x.fbin
    refused "groundtruth on a full disk" 1 "o space left" nightjar groundtruth --input base.u8bin \
        --queries many.u8bin --output disk/x.bin -k 100
    refused "search on a full disk" 1 "o space left" nightjar search --index root/gen \
        --queries many.u8bin --search-list 20 --output disk/x.ibin
    if [[ -z $(ls -A disk) ]]; then
        pass
    else
        fail "a full disk: left $(ls -A disk)"
    fi
else
    skip "full disk: no tmpfs can be mounted"
fi

summary
