#!/usr/bin/env bash
# Publishing, going back, listing and pruning from the outside: what is refused and said; that a
# command that is killed at any moment, or runs beside others, or finds the disk full, leaves a root
# whose live generation opens and where the next command does its work. Ends with
# `N passed, N failed[, N skipped]`.
#
#   KILLS=200 tests/e2e_publish.sh       more kills than the default
set -uo pipefail
export LC_ALL=C OMP_WAIT_POLICY=passive
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh" || exit 1

bin=${NIGHTJAR_BUILD:?directory of the programs}
mode=${NIGHTJAR_MODE:-release}
tool=$bin/nightjar
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-publish.XXXXXX") || exit 1
daemon=
mounted=
cleanup() {
    [[ -z $daemon ]] || kill -KILL "$daemon" 2>/dev/null
    [[ -z $mounted ]] || umount "$mounted"
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1

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
        fail "$1: '$2' is not in: $(head -c 1000 out)"
    fi
}
# live CLAIM GEN: current names it
live() {
    if [[ $(readlink root/current) == "$2" ]]; then
        pass
    else
        fail "$1: live is $(readlink root/current), not $2"
    fi
}
# refused CLAIM STATUS PHRASE ARGUMENT...: one line on stderr with the phrase; what is live stays
refused() {
    local claim=$1 wanted=$2 phrase=$3 status=0 before
    shift 3
    before=$(readlink root/current)
    "$tool" "$@" >out 2>err || status=$?
    if ((status != wanted)); then
        fail "$claim: exit $status, not $wanted"
    elif (($(wc -l <err) != 1)) || ! grep -qF -- "$phrase" err || ! grep -q '^nightjar: ' err; then
        fail "$claim: no line on stderr with '$phrase'"
    elif [[ $(readlink root/current) != "$before" ]]; then
        fail "$claim: live was $before, is $(readlink root/current)"
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

"$tool" generate --output base.u8bin --queries-output q.u8bin --count 2000 --query-count 100 \
    --dim 16 --threads 1 >out 2>err || fail 'vectors'
"$tool" groundtruth --input base.u8bin --queries q.u8bin --output t.bin --threads 1 >out 2>err ||
    fail 'exact neighbours'
mkdir root kept
for i in 1 2 3 4; do
    "$bin/nightjar-build" --input base.u8bin --output kept/gen-$i --seed $i --degree 16 \
        --threads 1 --quiet >out 2>err || fail "build $i"
done
[[ -e kept/gen-4/manifest.json ]] || exit 1
# put GEN...: the generations as they were, in root; by links, as they never change.
put() {
    local gen
    for gen; do
        [[ -e root/$gen ]] || cp -al "kept/$gen" "root/$gen"
    done
}
put gen-1 gen-2 gen-3 gen-4

# --- the commands ------------------------------------------------------------------------------

check 'list: nothing is published' "$tool" list --root root
says 'list: nothing is published' 'complete'
refused 'rollback: nothing is published' 1 'nothing is published' rollback --root root
check 'publish' "$tool" publish --root root gen-1
says 'publish' 'root/current -> gen-1'
says 'publish says what was checked' 'all files but nodes.blk checked'
check 'publish --full' "$tool" publish --root root root/gen-2 --full
says 'publish --full says what was checked' 'blocks and every other file checked'
gate=(--queries q.u8bin --groundtruth t.bin)
refused 'a recall that is missed' 1 'gen-2 stays live' publish --root root gen-3 \
    --require-recall 1 "${gate[@]}" -k 10 --search-list 10 --search-ratio 1
refused 'a recall that is missed is told' 1 'root/gen-3: recall@10 0.' publish --root root gen-3 \
    --require-recall 1 "${gate[@]}" -k 10 --search-list 10 --search-ratio 1
check 'a recall that is reached' "$tool" publish --root root gen-3 --require-recall 0.9 \
    "${gate[@]}" --search-list 60 --json
says 'a recall that is reached' '"required_recall":0.9,"k":10,"search_list":60'
says 'reads are told' '"reads_per_query":'
says 'what was live is told' '"previous":"gen-2"'
live 'a recall that is reached' gen-3
recall=$(sed 's/.*"recall":\([0-9.]*\).*/\1/' out)
refused 'a recall that is missed on its own sample' 1 'gen-3 stays live' publish --root root gen-2 \
    --require-recall 1 -k 10 --search-list 11 --search-ratio 1
check 'a recall that is reached on its own sample' "$tool" publish --root root gen-3 \
    --require-recall 0.9 --search-list 60
says 'its own sample is told' 'of its vectors'
check 'a recall is measured again' "$tool" publish --root root gen-3 --require-recall 0.9 \
    "${gate[@]}" --search-list 60
check 'list' "$tool" list --root root
if awk -v recall="$recall" '$1 == "gen-3" && $2 == "complete" && $(NF - 1) == sprintf("%.4f", recall) \
    && $NF == "live" { found = 1 } END { exit !found }' out; then
    pass
else
    fail "list tells the recall $recall and what is live: $(cat out)"
fi
says 'list tells where a rollback goes' 'previous'
check 'list --json' "$tool" list --root root --json
says 'list --json' '"name":"gen-2","state":"complete","live":false,"previous":true'
for usage in '--queries q.u8bin' '--require-recall 0.9 --queries q.u8bin' \
    '--require-recall 1.5' "--require-recall 0.9 ${gate[*]} -k 20 --search-list 10"; do
    # shellcheck disable=SC2086 # words
    refused "publish $usage" 2 '-' publish --root root gen-4 $usage
done
refused 'prune --keep 0' 2 '--keep' prune --root root --keep 0
refused 'prune without --keep' 2 '--keep' prune --root root
refused 'list: missing root' 1 'nowhere' list --root nowhere
refused 'prune: missing root' 1 'nowhere' prune --root nowhere --keep 1
refused 'rollback: missing root' 1 'nowhere' rollback --root nowhere

check 'rollback' "$tool" rollback --root root
says 'rollback' 'root/current -> gen-2 (was gen-3)'
check 'rollback again' "$tool" rollback --root root
live 'rollback again' gen-1
refused 'rollback at the end' 1 'nothing to go back to' rollback --root root

# A damaged one: in a small file it is always found, in a block when blocks are read.
cp -r kept/gen-4 root/hurt
flip root/hurt/codes.bin 1000
refused 'publish flipped codes' 1 'codes.bin' publish --root root hurt
rm -r root/hurt
cp -r kept/gen-4 root/hurt
block_bytes=$("$tool" info --json kept/gen-4 | sed 's/.*"block_bytes":\([0-9]*\).*/\1/')
blocks=$(($(stat -c %s root/hurt/nodes.blk) / block_bytes))
for ((i = 0; i < blocks; i++)); do
    flip root/hurt/nodes.blk $((i * block_bytes + 100))
done
refused 'publish --full flipped blocks' 1 'nodes.blk: block 0' publish --root root hurt --full
refused 'a recall of flipped blocks' 1 'cannot be read' publish --root root hurt \
    --require-recall 0 "${gate[@]}"
rm -r root/hurt

# --- in use ------------------------------------------------------------------------------------

"$tool" publish --root root gen-2 >out 2>err
"$bin/nightjard" --index root/gen-2 --socket socket --threads 1 >out 2>daemon.log &
daemon=$!
end=$((SECONDS + 120))
until "$tool" stats --socket socket >out 2>err || ((SECONDS > end)); do
    kill -0 "$daemon" 2>/dev/null || break
done
"$tool" publish --root root gen-3 >out 2>err
check 'list: in use' "$tool" list --root root --json
says 'list: in use' '"name":"gen-2","state":"complete","live":false,"previous":true,"in_use":true'
check 'prune --dry-run' "$tool" prune --root root --keep 1 --dry-run
says 'prune --dry-run' 'would remove gen-1'
if [[ -d root/gen-1 && -d root/gen-4 ]]; then
    pass
else
    fail 'prune --dry-run removed something'
fi
check 'prune' "$tool" prune --root root --keep 1
says 'prune keeps what is in use' ': in use'
if [[ -d root/gen-2 && -d root/gen-3 && ! -e root/gen-1 && ! -e root/gen-4 ]]; then
    pass
else
    fail "prune --keep 1 left: $(ls root)"
fi
check 'the daemon still answers' "$tool" search --socket socket --queries q.u8bin --limit 5 \
    --search-list 20
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null
daemon=
check 'prune --json' "$tool" prune --root root --keep 1 --json
says 'prune of what was in use by one that died' '"name":"gen-2","removed":true'
live 'prune' gen-3

# --- kill -9 -----------------------------------------------------------------------------------

kills=${KILLS:-40}
[[ $mode == release ]] || kills=$((kills / 4 + 1))
names=(gen-1 gen-2 gen-3 gen-4)
# aftermath CLAIM: what holds after every command, also one that did not come to its end
aftermath() {
    local name
    name=$(readlink root/current)
    if ! "$tool" info root/current >out 2>err || [[ ! -d root/$name || $name == */* ]]; then
        fail "$1: what is live does not open"
    elif ! grep -q "^$name " root/history; then
        fail "$1: $name is live and not in the history"
    elif ! "$tool" list --root root >out 2>err || grep -qE ' (incomplete|damaged) ' out; then
        fail "$1: not every generation is whole: $(cat out)"
    else
        pass
    fi
}
# run COMMAND NUMBER: a command of that kind
run() {
    case $1 in
    publish) "$tool" publish --root root "${names[$2 % 4]}" ;;
    rollback) "$tool" rollback --root root ;;
    prune) "$tool" prune --root root --keep 2 ;;
    esac >out 2>err
}
# wait_us MICROSECONDS: in a loop, as sleep takes a process and rounds up
wait_us() {
    local until=$((${EPOCHREALTIME/./} + $1))
    while ((${EPOCHREALTIME/./} < until)); do :; done
}
declare -A took killed
for command in publish rollback prune; do
    put "${names[@]}"
    "$tool" publish --root root gen-1 >out 2>err
    "$tool" publish --root root gen-2 >out 2>err
    start=${EPOCHREALTIME/./}
    run $command 2
    took[$command]=$((${EPOCHREALTIME/./} - start + 1000))
    killed[$command]=0
done
for ((i = 0; i < kills; i++)); do
    for command in publish rollback prune; do
        put "${names[@]}"
        before=$(readlink root/current)
        after_us=$(((RANDOM * 32768 + RANDOM) % took[$command]))
        case $command in
        publish) "$tool" publish --root root "${names[i % 4]}" >killed.out 2>&1 & ;;
        rollback) "$tool" rollback --root root >killed.out 2>&1 & ;;
        prune) "$tool" prune --root root --keep 2 >killed.out 2>&1 & ;;
        esac
        pid=$!
        wait_us "$after_us"
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        (($? != 137)) || killed[$command]=$((killed[$command] + 1))
        claim="$command killed after $after_us us"
        now=$(readlink root/current)
        if [[ $command == prune && $now != "$before" ]]; then
            fail "$claim: live was $before, is $now"
        elif [[ $command == publish && $now != "$before" && $now != "${names[i % 4]}" ]]; then
            fail "$claim: live was $before, is $now"
        else
            pass
        fi
        aftermath "$claim"
        # The next one does its work, in all that was left.
        put "${names[@]}"
        next=${names[(i + 1) % 4]}
        check "publish after a $claim" "$tool" publish --root root "$next"
        live "publish after a $claim" "$next"
    done
done
put "${names[@]}"
check 'prune after all kills' "$tool" prune --root root --keep 1
# One generation, the link, the history, the lock.
if (($(find root -mindepth 1 -maxdepth 1 | wc -l) == 4)); then
    pass
else
    fail "left after all kills: $(ls -A root)"
fi
for command in publish rollback prune; do
    ((killed[$command] > 0)) || skip "no kill came before the end of $command"
done

# --- side by side ------------------------------------------------------------------------------

put "${names[@]}"
"$tool" publish --root root gen-1 >out 2>err
"$tool" publish --root root gen-2 >out 2>err
rounds=15
[[ $mode == release ]] || rounds=5
# repeat NAME COMMAND...: runs it so many times, and writes what failed
repeat() {
    local name=$1 i
    shift
    for ((i = 0; i < rounds; i++)); do
        "$@" >>"$name.log" 2>&1 || echo "exit $?" >>"$name.failed"
    done
}
# Built elsewhere and moved in, so that each is complete at once.
prune_one() {
    cp -al kept/gen-3 "moving-$BASHPID-$1" && mv "moving-$BASHPID-$1" "root/extra-$1-$RANDOM" &&
        "$tool" prune --root root --keep 2
}
jobs_started=()
repeat one "$tool" publish --root root gen-1 &
jobs_started+=($!)
repeat two "$tool" publish --root root gen-2 --require-recall 0.5 "${gate[@]}" --threads 1 &
jobs_started+=($!)
repeat three prune_one 3 &
jobs_started+=($!)
repeat four prune_one 4 &
jobs_started+=($!)
repeat seven "$tool" publish --root root gen-1 &
jobs_started+=($!)
repeat eight "$tool" publish --root root gen-2 &
jobs_started+=($!)
repeat five "$tool" list --root root &
jobs_started+=($!)
repeat six "$tool" info root/current &
jobs_started+=($!)
wait "${jobs_started[@]}"
for name in one two three four five six seven eight; do
    if [[ -e $name.failed ]]; then
        fail "side by side, $name: $(grep -m 3 '^nightjar' $name.log)"
    else
        pass
    fi
done
aftermath 'side by side'
check 'prune after all' "$tool" prune --root root --keep 2
if [[ $(cd root && echo gen-* extra-* .removing*) == 'gen-1 gen-2 extra-* .removing*' ]]; then
    pass
else
    fail "side by side: left $(ls -A root)"
fi

# --- a full disk -------------------------------------------------------------------------------

mkdir disk
if ((EUID == 0)) && mount -t tmpfs -o size=4m tmpfs disk 2>/dev/null; then
    mounted=$work/disk
    cp -r kept/gen-1 kept/gen-2 disk
    rm -rf root
    ln -s disk root
    check 'publish on a small disk' "$tool" publish --root root gen-1
    cat root/history >history.before
    dd if=/dev/zero of=disk/fill bs=4k status=none 2>err
    refused 'publish on a full disk' 1 'o space left' publish --root root gen-2
    live 'publish on a full disk' gen-1
    if cmp -s root/history history.before && [[ ! -e root/history.tmp ]]; then
        pass
    else
        fail "publish on a full disk: $(ls -A root; cat root/history)"
    fi
    check 'list on a full disk' "$tool" list --root root
    check 'prune on a full disk' "$tool" prune --root root --keep 1
    live 'prune on a full disk' gen-1
    rm disk/fill
    cp -r kept/gen-2 disk
    check 'publish when there is room' "$tool" publish --root root gen-2
    live 'publish when there is room' gen-2
else
    skip 'full disk: no tmpfs can be mounted'
fi

summary
