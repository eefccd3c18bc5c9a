#!/usr/bin/env bash
# nightjar-nightly from the outside: nights that go well, and every way in which one does not: after
# each, yesterday's index is live, one line says what happened, and the next night needs no help.
# Ends with `N passed, N failed[, N skipped]`.
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
nightly=$here/../tools/scripts/nightly.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-nightly.XXXXXX") || exit 1
mounted='' daemon='' group=''
cleanup() {
    # A child that has not become its program yet would do this as well.
    ((BASHPID == $$)) || return
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    [[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null
    [[ -z $mounted ]] || umount "$mounted"
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
PATH=$bin:$PATH

rows=2000 more_rows=20000
[[ $mode == release ]] || rows=600 more_rows=3000
nightjar generate --output base.fbin --count $rows --dim 16 --type f32 --seed 1 \
    --queries-output query.fbin --query-count 100 >out 2>err || exit 1
nightjar generate --output more.fbin --count $more_rows --dim 16 --type f32 --seed 2 \
    >out 2>err || exit 1
nightjar groundtruth --input base.fbin --queries query.fbin --output truth.bin >out 2>err || exit 1
# The neighbours of other queries: no index finds these.
nightjar generate --output unused.fbin --count 10 --dim 16 --type f32 --seed 9 \
    --queries-output other.fbin --query-count 100 >out 2>err || exit 1
nightjar groundtruth --input base.fbin --queries other.fbin --output wrong.bin >out 2>err || exit 1
cp base.fbin nan.fbin
# Row 37, dimension 5.
printf '\0\0\300\177' | dd of=nan.fbin bs=1 seek=$((8 + (37 * 16 + 5) * 4)) conv=notrunc status=none
mkdir root

readonly NAME='gen-[0-9]{8}-[0-9]{6}'
readonly OPTIONS='--degree 16 --code-bytes 8'
settings=(INPUT=base.fbin ROOT=root BUILD_OPTIONS="$OPTIONS" THREADS=2 KEEP=2)

evidence() {
    [[ ! -s err ]] || grep -v event=stage err | sed 's/^/  stderr: /'
}
# night [NAME=VALUE...]: a run; its exit status is in status, its last line in line.
night() {
    status=0
    env "${settings[@]}" "$@" "$nightly" >out 2>err || status=$?
    line=$(tail -n 1 out)
}
live() {
    readlink root/current
}
# clean CLAIM: no build is under way or half done.
clean() {
    local left
    left=$(find root -maxdepth 1 \( -name '*.work' -o -name '.nightly-building*' \))
    for gen in root/gen-*; do
        [[ ! -d $gen || $gen == *.work || -e $gen/manifest.json ]] || left+=" $gen"
    done
    if [[ -z $left ]]; then
        pass
    else
        fail "$1: left behind: $left"
    fi
}
# went_well CLAIM [PATTERN]: the night did; the pattern is of the end of its line.
went_well() {
    local pattern="^nightjar-nightly: ok gen=($NAME) vectors=[0-9]+ build_s=[0-9]+ ${2-}"
    if ((status == 0)) && [[ $line =~ $pattern && ${BASH_REMATCH[1]} == "$(live)" ]]; then
        pass
    else
        fail "$1: exit $status, live $(live): $line"
    fi
    clean "$1"
}
# failed_at CLAIM STEP LIVE PATTERN: the night failed in that step for a reason like PATTERN, and LIVE
# is what is live.
failed_at() {
    local pattern="^nightjar-nightly: failed at=$2 gen=($NAME|-) : .*$4.*; $3 (stays|is) live"
    if ((status == 1)) && [[ $line =~ $pattern && $(live) == "$3" ]]; then
        pass
    else
        fail "$1: exit $status, live $(live): $line"
    fi
}
# until_true COMMAND...: waits for it, but not for ever.
until_true() {
    local end=$((SECONDS + 120))
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.01
    done
}
# A nightjar-build of our own comes before the real one in shim/, with what stdin has around REAL.
make_shim() {
    rm -rf shim
    mkdir shim
    {
        printf '#!/usr/bin/env bash\nREAL=%q\n' "$bin/nightjar-build"
        # shellcheck disable=SC2016 # for the script
        echo '[[ $1 != --version ]] || exec "$REAL" --version'
        cat
    } >shim/nightjar-build
    chmod +x shim/nightjar-build
}

# --- nights that go well -------------------------------------------------------------------------

night REQUIRE_RECALL=0.5
went_well "the first night" "recall=(1|0\.[5-9])[0-9.]* published=yes pruned=0$"
first=$(live)
night REQUIRE_RECALL=0.5 QUERIES=query.fbin GROUNDTRUTH=truth.bin
went_well "a night that meets its gate" "recall=(1|0\.[5-9])[0-9.]* published=yes pruned=0$"
second=$(live)
cat >settings.conf <<'END'
# a comment
INPUT="base.fbin"
ROOT=root
BUILD_OPTIONS=--degree 16 --code-bytes 8
KEEP='7'
END
status=0
KEEP=2 REQUIRE_RECALL=0.5 QUERIES=query.fbin "$nightly" settings.conf >out 2>err || status=$?
line=$(tail -n 1 out)
went_well "settings of a file and of the environment, which comes first; truth that is computed" \
    "recall=(1|0\.[5-9])[0-9.]* published=yes pruned=1$"
third=$(live)
if [[ ! -e root/$first && -e root/$second && $third != "$second" ]]; then
    pass
else
    fail "the third night removes the first and keeps the second: $(ls root)"
fi

# --- nights that do not --------------------------------------------------------------------------

count=$(find root -maxdepth 1 -name 'gen-*' | wc -l)
night INPUT=nan.fbin
failed_at "a NaN" build "$third" "row 37 has a NaN"
clean "a NaN"
night INPUT=nosuch.fbin
failed_at "no input" build "$third" "nosuch.fbin"
clean "no input"
if (($(find root -maxdepth 1 -name 'gen-*' | wc -l) == count)); then
    pass
else
    fail "a build that cannot be begun leaves nothing: $(ls root)"
fi

night REQUIRE_RECALL=0.9 QUERIES=query.fbin GROUNDTRUTH=wrong.bin
failed_at "a gate that is missed" publish "$third" "recall@10 0.* below the required 0.9"
if [[ $(grep -o 'stays live' <<<"$line" | wc -l) == 1 ]]; then
    pass
else
    fail "a gate that is missed: what is live is said once: $line"
fi
clean "a gate that is missed"
missed=$(sed -n 's/.* \(gen-[0-9-]*\) is kept until a night succeeds$/\1/p' <<<"$line")
if [[ -n $missed && -e root/$missed/manifest.json && $missed != "$third" ]]; then
    pass
else
    fail "what missed the gate is kept and named: $line"
fi

night REQUIRE_RECALL=0.5 QUERIES=nosuch.fbin
failed_at "queries that are not there" groundtruth "$third" "nosuch.fbin"
finished=$(head -n 1 root/.nightly-building)
night REQUIRE_RECALL=0.5 QUERIES=query.fbin
went_well "the night after queries that were not there" "recall=[01]\.[0-9]+"
third=$(live)
if [[ $third == "$finished" ]]; then
    pass
else
    fail "a generation that could not be measured is taken up: $line"
fi

make_shim <<'END'
"$REAL" "$@" || exit
while (($# > 1)); do
    [[ $1 != --output ]] || printf '\377' | dd of="$2/nodes.blk" bs=1 seek=777 conv=notrunc status=none
    shift
done
END
night PATH="$PWD/shim:$PATH"
failed_at "a damaged file" verify "$third" "nodes.blk: block"
damaged=$(sed -n 's/.* \(gen-[0-9-]*\) is kept until a night succeeds$/\1/p' <<<"$line")

night SOCKET=nosuch.sock
if ((status == 1)) && [[ $line == *"failed at=reload"*"; $(live) is live" && $(live) != "$third" ]]; then
    pass
else
    fail "no daemon to be told: exit $status, live $(live): $line"
fi
# With a KEEP that has prune itself remove nothing. Who looks at a generation has it open.
exec 8<"root/$damaged"
flock -s 8
night KEEP=9
went_well "the night after bad ones" "recall=- published=yes pruned=[0-9]+$"
if [[ -n $damaged && -e root/$damaged && -n $missed && ! -e root/$missed ]]; then
    pass
else
    fail "what was not published is gone after a night that succeeds, if nobody has it open: $(ls -A root)"
fi
exec 8<&-
night KEEP=9
went_well "the night after that" "recall=- published=yes pruned=1$"
if [[ ! -e root/$damaged && ! -e root/.nightly-unpublished ]]; then
    pass
else
    fail "what was open goes later: $(ls -A root)"
fi

# wrong_usage CLAIM PHRASE NAME=VALUE... [ARGUMENT]
wrong_usage() {
    local claim=$1 phrase=$2
    shift 2
    status=0
    env "$@" >out 2>err || status=$?
    if ((status == 2)) && [[ $(cat err) == "nightjar-nightly: "*"$phrase"* && ! -s out ]]; then
        pass
    else
        fail "$claim: exit $status"
    fi
}
wrong_usage "no input named" "INPUT is not set" ROOT=root "$nightly"
wrong_usage "no such root" "no such directory" INPUT=base.fbin ROOT=nosuch "$nightly"
wrong_usage "queries without a gate" "QUERIES" "${settings[@]}" QUERIES=query.fbin "$nightly"
wrong_usage "keep nothing" "KEEP=0" "${settings[@]}" KEEP=0 "$nightly"
echo 'KEPT=3' >settings.conf
wrong_usage "a setting that is none" "settings.conf:1: there is no setting KEPT" "$nightly" settings.conf

# --- the daemon takes it -------------------------------------------------------------------------

nightjard --root root --socket socket --memory 0 --threads 1 2>daemon.log &
daemon=$!
answers() {
    nightjar stats --socket socket --json >stats.json 2>err || ! kill -0 "$daemon" 2>/dev/null
}
until_true answers
night SOCKET=socket
went_well "a night with a daemon" "recall=- published=yes pruned=[0-9]+$"
answers
if grep -qF "$(live)" stats.json; then
    pass
else
    fail "the daemon serves $(live): $(cat stats.json)"
fi
kill "$daemon"
wait "$daemon" || fail "the daemon ends with status $?"
daemon=''

# --- two at once ---------------------------------------------------------------------------------

make_shim <<'END'
touch begun
until [[ -e go ]]; do sleep 0.01; done
exec "$REAL" "$@"
END
before=$(live)
env "${settings[@]}" PATH="$PWD/shim:$PATH" setsid "$nightly" >first.out 2>first.err &
group=$!
until_true test -e begun || fail "the first of two nights begins"
night
failed_at "the second of two at once" start "$before" "another night is at work"
touch go
status=0
wait "$group" || status=$?
group=''
line=$(tail -n 1 first.out)
went_well "the first of two at once" "recall=-"

# --- kill ----------------------------------------------------------------------------------------

# under_way: pieces of the build are finished, and others not.
under_way() {
    [[ -e root/.nightly-building ]] &&
        compgen -G "root/$(head -n 1 root/.nightly-building).work/partition*.done" >/dev/null
}
# begin_long: a night in a process group of its own that is in the middle of its build; group is it.
begin_long() {
    env "${settings[@]}" INPUT=more.fbin THREADS=1 setsid "$nightly" >killed.out 2>killed.err &
    group=$!
    until_true under_way || fail "a build gets under way"
}
# end_group SIGNAL TARGET: and it is awaited.
end_group() {
    kill "-$1" -- "$2"
    status=0
    # Without bash's own remark on it.
    { wait "$group" || status=$?; } 2>/dev/null
    group=''
}

before=$(live)
begin_long
end_group KILL "-$group"
# The kernel may take a while to end what was killed.
until_true flock -n root/.nightly.lock true || fail "what was killed ends"
begun=$(head -n 1 root/.nightly-building)
if [[ $(live) == "$before" && -d root/$begun.work && ! -e root/$begun/manifest.json ]]; then
    pass
else
    fail "kill -9 in the middle of a build: $(ls -A root)"
fi
night INPUT=more.fbin
went_well "the night after a kill" "recall=-"
if [[ $(live) == "$begun" ]] && grep -q "goes on with $begun" out; then
    pass
else
    fail "the night after a kill goes on with $begun: $line"
fi
read -r -a options <<<"$OPTIONS"
nightjar-build --input more.fbin --output undisturbed "${options[@]}" --quiet >out 2>err
if cmp -s <(nightjar verify --digest undisturbed) <(nightjar verify --digest root/current); then
    pass
else
    fail "a build that was killed ends in the same bytes"
fi

begin_long
end_group KILL "-$group"
# The kernel may take a while to end what was killed.
until_true flock -n root/.nightly.lock true || fail "what was killed ends"
begun=$(head -n 1 root/.nightly-building)
night
went_well "other work after a kill" "recall=-"
# What begins within the same second may have the same name.
if [[ ! -e root/$begun || $(live) == "$begun" ]]; then
    pass
else
    fail "other work after a kill starts over: $line; $(ls -A root)"
fi

# The script alone: its build lives on, keeps others away, and is taken up when it is done.
before=$(live)
begin_long
pid=$group
kill -KILL "$pid"
{ wait "$pid"; } 2>/dev/null
night INPUT=more.fbin
if [[ -e root/$(head -n 1 root/.nightly-building)/manifest.json ]]; then
    skip "a build that outlives its script: it was done before the next night began"
else
    failed_at "a build that outlives its script" start "$before" "another night is at work"
fi
until_true flock -n root/.nightly.lock true || fail "a build that outlives its script ends"
group=''
begun=$(head -n 1 root/.nightly-building)
make_shim <<'END'
echo "built again" >&2
exit 1
END
night INPUT=more.fbin PATH="$PWD/shim:$PATH"
went_well "a build that was done without its script" "recall=-"
if [[ $(live) == "$begun" ]]; then
    pass
else
    fail "a build that was done without its script is published: $line"
fi

before=$(live)
begin_long
end_group TERM "$group"
line=$(tail -n 1 killed.out)
failed_at "a night that is stopped" build "$before" "stopped by a signal"
begun=$(head -n 1 root/.nightly-building)
night INPUT=more.fbin
went_well "the night after one that was stopped" "recall=-"
if [[ $(live) == "$begun" ]]; then
    pass
else
    fail "the night after one that was stopped goes on with $begun: $line"
fi

# What was kept cannot be gone on with: that night starts over by itself.
begin_long
end_group KILL "-$group"
# The kernel may take a while to end what was killed.
until_true flock -n root/.nightly.lock true || fail "what was killed ends"
begun=$(head -n 1 root/.nightly-building)
mkdir -p "root/$begun"
touch "root/$begun/not of a generation"
night INPUT=more.fbin
went_well "work that is refused" "recall=-"
# What begins within the same second may have the same name.
if [[ ! -e root/$begun || $(live) == "$begun" ]]; then
    pass
else
    fail "work that is refused is left for new work: $line; $(ls -A root)"
fi

# --- disk full -----------------------------------------------------------------------------------

mkdir disk
if ((EUID == 0)) && mount -t tmpfs -o size=64m tmpfs disk 2>/dev/null; then
    mounted=$work/disk
    rm -rf root
    mkdir disk/root
    ln -s disk/root root
    night
    went_well "a night on a small disk" "recall=-"
    before=$(live)
    used=$(du -sk disk | cut -f 1)
    mount -o remount,size=$((used + 300))k disk
    night INPUT=more.fbin
    failed_at "a full disk" build "$before" "[Nn]o space left"
    mount -o remount,size=64m disk
    night INPUT=more.fbin
    went_well "the night after a full disk" "recall=-"
else
    skip "full disk: no tmpfs can be mounted"
fi

summary
