#!/usr/bin/env bash
# The HTTP socket from the outside, with curl: health, metrics, searches, fetches, what is refused; a
# swap while searches run, each of whose answers names its generation; the end. Ends with
# `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
tool=$bin/nightjar
command -v curl >/dev/null || {
    echo 'skipped: no curl'
    exit 77
}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-http.XXXXXX") || exit 1
daemon=
asker=
cleanup() {
    [[ -z $asker ]] || kill "$asker" 2>/dev/null
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
evidence() {
    [[ ! -s out ]] || tail -n 5 out | cut -c 1-500 | sed 's/^/  out: /'
    [[ ! -s daemon.log ]] || tail -n 5 daemon.log | sed 's/^/  daemon: /'
}

# http CLAIM CODE PHRASE PATH [ARGUMENT...]: the answer to a request is in out
http() {
    local claim=$1 wanted=$2 phrase=$3 path=$4 code
    shift 4
    code=$(curl --silent --show-error --unix-socket http.sock --output out --write-out '%{http_code}' \
        "$@" "http://nightjar$path" 2>err)
    if [[ $code == "$wanted" ]] && grep -qF -- "$phrase" out; then
        pass
    else
        fail "$claim: $code, wanted $wanted with '$phrase': $(cat err)"
    fi
}
# until_true COMMAND...: within two minutes
until_true() {
    local end=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        kill -0 "$daemon" 2>/dev/null || return 1
    done
}
healthy() {
    curl --silent --fail --unix-socket http.sock http://nightjar/healthz
}
daemon_start() {
    "$bin/nightjard" --root root --socket s --http-socket http.sock --memory 32M --threads 1 "$@" \
        2>daemon.log &
    daemon=$!
    until_true healthy || fail 'the daemon starts'
}
# daemon_end CLAIM: by SIGTERM, with nothing left
daemon_end() {
    kill -TERM "$daemon"
    if wait "$daemon" && [[ ! -e http.sock && ! -e s ]]; then
        pass
    else
        fail "$1: ends in good order and leaves no socket"
    fi
    daemon=
}

"$tool" generate --output base.u8bin --queries-output q.u8bin --count 1500 --query-count 10 \
    --dim 8 --type u8 --threads 1 >out 2>err || fail 'vectors'
mkdir root
for i in 1 2; do
    "$bin/nightjar-build" --input base.u8bin --output root/gen-$i --seed $i --degree 16 \
        --threads 1 --quiet >out 2>err || fail "build $i"
done
id_of() {
    "$tool" info --json "root/$1" | sed 's/.*"id":"\([0-9a-f]*\)".*/\1/'
}
one=$(id_of gen-1) two=$(id_of gen-2)
"$tool" publish --root root gen-1 >out 2>err || fail 'publish'

# The first vector of the file, after two words of header, in JSON.
vector=[$(od -An -v -tu1 -j 8 -N 8 base.u8bin | tr -s ' ' ',' | tr -d '\n' | sed 's/^,//')]
body="{\"vector\":$vector,\"k\":3}"

daemon_start --slow-ms 1
grep -q 'event=ready.* http_socket=http.sock' daemon.log || fail 'the start names the HTTP socket'
if [[ $(stat -c %a http.sock) == 600 ]]; then pass; else fail 'the socket is private'; fi
http 'health' 200 'generation: gen-1' /healthz
http 'metrics' 200 "nightjar_generation_info{name=\"gen-1\",id=\"$one\",type=\"u8\"" /metrics
if [[ $(grep -c '^nightjar_query_duration_seconds_bucket{le="+Inf"} ' out) == 1 ]] &&
    ! grep -vqE '^(# (HELP|TYPE) |nightjar_[a-z_]+(\{[^ ]*\})? [0-9.]+$)' out; then
    pass
else
    fail 'metrics are lines of the format'
fi
if command -v promtool >/dev/null; then
    if promtool check metrics <out >promtool.out 2>&1; then pass; else fail "$(cat promtool.out)"; fi
fi
if diff <("$tool" stats --socket s --prometheus | grep '^#') <(grep '^#' out) >diff.out; then
    pass
else
    fail 'nightjar stats --prometheus shows the same'
fi
http 'stats' 200 '"http":{"requests":' /stats
http 'search' 200 "{\"generation\":\"$one\",\"trace_id\":\"8" /search --data "$body"
if grep -qF '"results":[{"hits":[{"key":0,"distance":0}' out; then
    pass
else
    fail 'a vector of the index finds itself'
fi
found="{\"key\":0,\"found\":true,\"vector\":$vector}"
missing='{"key":1500,"found":false}'
http 'fetch' 200 "{\"generation\":\"$one\",\"trace_id\":\"8" /fetch --data '{"key":0}'
if grep -qF "\"results\":[$found]}" out; then pass; else fail 'the vector of a key is that of the file'; fi
http 'keys found and missing' 200 "\"results\":[$missing,$found]}" /fetch --data '{"keys":[1500,"0"]}'
http 'which keys there are' 200 "\"results\":[{\"key\":0,\"found\":true},$missing]}" /fetch \
    --data '{"keys":[0,1500],"vectors":false}'
http 'a key that is none' 400 'a key is a whole number' /fetch --data '{"key":-1}'
http 'a member given twice' 400 'key is given twice' /fetch --data '{"key":1,"key":2}'
http 'a member that is none' 400 'no member is called' /fetch --data '{"key":1,"k":2}'
http 'too many keys' 400 '1025 keys in a request, wanted 1..1024' /fetch \
    --data "{\"keys\":[$(seq -s , 0 1024)]}"
http 'as many keys as are taken' 200 '{"key":1023,"found":true}]}' /fetch \
    --data "{\"keys\":[$(seq -s , 0 1023)],\"vectors\":false}"
http 'a fetch by another method' 405 'POST' '/fetch?key=0'
http 'a body of a pipe' 200 '"key":0,' /search --header 'Transfer-Encoding: chunked' --data "$body"
http 'a value out of range' 400 'whole, 0..255' /search --data '{"vector":[0,0,0,0,0,0,0,256]}'
http 'no JSON' 400 '"status":"invalid"' /search --data 'vector=1'
http 'another place' 404 '/healthz' /
http 'another method' 405 'POST' /search
head -c 17000000 /dev/zero >large
http 'a large body' 413 '16777216' /search --data-binary @large
http 'the same in pieces' 413 '16777216' /search --header 'Transfer-Encoding: chunked' \
    --data-binary @large
http 'a request id' 200 'ok' /healthz --header 'X-Request-Id: mine-1' --dump-header head
if grep -qi '^x-request-id: mine-1' head; then pass; else fail 'a request id comes back'; fi

# --- a swap under searches -----------------------------------------------------------------------

printf '%s' "$body" >body.json
# One curl a batch, on one connection.
batch=()
for ((i = 0; i < 50; i++)); do
    batch+=(--url http://nightjar/search)
done
(while :; do
    curl --silent --show-error --unix-socket http.sock --data @body.json --write-out '%{http_code}\n' \
        "${batch[@]}" || exit
done) >answers 2>answers.err &
asker=$!
asked() {
    grep -q "$1" answers
}
until_true asked "$one" || fail 'searches run'
"$tool" publish --root root gen-2 >out 2>err || fail 'publish the next'
if until_true asked "$two"; then pass; else fail 'the next generation answers'; fi
kill "$asker"
wait "$asker" 2>/dev/null
asker=
# The last line may be cut off.
sed -i '$d' answers
if ! grep -vE "^(200|\{\"generation\":\"($one|$two)\".*\"key\":0,\"distance\":0\}.*)$" answers >out; then
    pass
else
    fail 'every answer beside a swap is one'
fi
# Once the next has answered, the one before does not.
if ! sed -n "/$two/,\$p" answers | grep -q "$one"; then pass; else fail 'a swap is for good'; fi
http 'health after the swap' 200 'generation: gen-2' /healthz
daemon_end 'SIGTERM'

# --- a damaged current ---------------------------------------------------------------------------

rm root/gen-2/manifest.json
daemon_start
http 'health of a fallback' 200 'fallback' /healthz
http 'a fallback answers' 200 "$one" /search --data "$body"
daemon_end 'SIGTERM of a fallback'
if "$bin/nightjard" --root root --socket s --http-socket s/no 2>err; then
    fail 'a wrong path is refused'
elif (($(wc -l <err) == 1)) && grep -q 's/no' err; then
    pass
else
    fail "a wrong path is refused in one line: $(cat err)"
fi

summary
