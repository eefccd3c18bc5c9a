#!/usr/bin/env bash
# One night: builds a generation, checks every byte of it, publishes it, has the daemon take it, and
# removes old ones. Installed as nightjar-nightly, which nightjar-nightly.service runs.
#
#   nightly.sh [CONFIG]
#
# Settings are environment variables; CONFIG has KEY=VALUE lines (what systemd's EnvironmentFile
# takes) for those that are not set there. tools/systemd/nightjar.conf explains each of them.
#
# Whatever happens, also kill -9 or a power cut: ROOT/current names a whole generation, the last line
# on stdout tells how it went and what is live, and the next run needs no help. For that, ROOT has
#   .nightly.lock         held by this script and what it runs: a build that outlives a killed script
#                         keeps the next one away
#   .nightly-building     the generation that is being made, and of what: the same work goes on under
#                         the same name, other work starts over
#   .nightly-unpublished  generations that were finished and not published, to be looked at until a
#                         later night succeeds
# Exit status: 0 published; 1 failed; 2 wrong usage.
set -uo pipefail
export LC_ALL=C

readonly ME=nightjar-nightly
readonly SETTINGS=" INPUT KEYS ROOT METRIC BUILD_OPTIONS MEMORY THREADS REQUIRE_RECALL QUERIES \
GROUNDTRUTH PUBLISH_OPTIONS SOCKET KEEP DAEMON_OPTIONS "

usage() {
    echo "$ME: $1" >&2
    exit 2
}

# --- how it went ---------------------------------------------------------------------------------

step=start name='' done_line='' tmp='' child='' stopped=''

# What ROOT/current names, if anything.
live() {
    readlink "$ROOT/current"
}

# fail REASON: the status line of a night that failed in $step.
fail() {
    local now after
    now=$(live)
    if [[ -z $now ]]; then
        after="nothing is live"
    elif [[ $now == "$name" ]]; then
        after="$now is live"
    else
        after="$now stays live"
    fi
    if [[ -n $name && $now != "$name" && -e $ROOT/$name/manifest.json ]]; then
        after+="; $name is kept until a night succeeds"
    fi
    # What a command says of it is said once.
    done_line="$ME: failed at=$step gen=${name:--} : ${1%"; $now stays live"}; $after"
    exit 1
}

# The one place that prints the status line: there is one however the script ends.
on_exit() {
    local status=$?
    [[ -z $tmp ]] || rm -rf "$tmp"
    echo "${done_line:-$ME: failed at=$step gen=${name:--} : ended with status $status}"
}

on_stop() {
    stopped=yes
    [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}

# --- settings ------------------------------------------------------------------------------------

read_config() {
    local file=$1 line key value number=0
    [[ -r $file ]] || usage "$file: cannot be read"
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        [[ ! $line =~ ^[[:space:]]*([#\;].*)?$ ]] || continue
        [[ $line =~ ^([A-Z_]+)=(.*)$ ]] || usage "$file:$number: want KEY=VALUE"
        key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
        [[ $SETTINGS == *" $key "* ]] || usage "$file:$number: there is no setting $key"
        if [[ $value =~ ^\"([^\"]*)\"$ || $value =~ ^\'([^\']*)\'$ ]]; then
            value=${BASH_REMATCH[1]}
        fi
        [[ -n ${!key+set} ]] || printf -v "$key" '%s' "$value"
    done <"$file"
}

check_settings() {
    : "${KEYS=}" "${METRIC=l2}" "${BUILD_OPTIONS=}" "${MEMORY=}" "${THREADS=}" "${KEEP=3}"
    : "${REQUIRE_RECALL=}" "${QUERIES=}" "${GROUNDTRUTH=}" "${PUBLISH_OPTIONS=}" "${SOCKET=}"
    [[ -n ${INPUT-} ]] || usage "INPUT is not set: the vectors to index"
    [[ -n ${ROOT-} ]] || usage "ROOT is not set: the directory of generations"
    [[ -d $ROOT ]] || usage "ROOT=$ROOT: no such directory"
    [[ $KEEP =~ ^[1-9][0-9]*$ ]] || usage "KEEP=$KEEP: want a number of at least 1"
    [[ -n $REQUIRE_RECALL || -z $QUERIES ]] || usage "QUERIES without REQUIRE_RECALL"
    [[ -n $QUERIES || -z $GROUNDTRUTH ]] || usage "GROUNDTRUTH without QUERIES"
}

# --- running -------------------------------------------------------------------------------------

# run COMMAND...: what it writes is passed on; its output is also in $tmp/out, its stderr in $tmp/err.
# It runs beside us, so that a signal reaches it at once.
run() {
    local status=0 tee
    [[ -z $stopped ]] || fail "stopped by a signal"
    rm -f "$tmp/pipe"
    mkfifo "$tmp/pipe" || fail "$tmp: cannot make a pipe"
    (
        trap '' TERM INT HUP
        exec tee "$tmp/err" <"$tmp/pipe" >&2
    ) &
    tee=$!
    "$@" >"$tmp/out" 2>"$tmp/pipe" &
    child=$!
    wait "$child" || status=$?
    # A signal ends the wait, not the child.
    while jobs -rp | grep -qx "$child"; do
        wait "$child"
        status=$?
    done
    child=''
    wait "$tee"
    cat "$tmp/out"
    [[ -z $stopped ]] || fail "stopped by a signal"
    return $status
}

# The error that the last command, a PROGRAM of ours, ended with.
reason() {
    local line
    line=$(sed -n "s/^$1: //p" "$tmp/err" | head -n 1)
    [[ -n $line ]] || line=$(tail -n 1 "$tmp/err")
    echo "${line:-$1 says nothing}"
}

# --- build ---------------------------------------------------------------------------------------

# What is built: equal text, equal work.
job() {
    local file
    printf '%s\n' "$(nightjar-build --version)" "metric $METRIC" "memory $MEMORY" \
        "options $BUILD_OPTIONS"
    for file in "$INPUT" ${KEYS:+"$KEYS"}; do
        printf 'file %s %s\n' "$(stat -L -c '%s %.9Y' -- "$file" 2>/dev/null)" "$file"
    done
}

# forget NAME: removes what is unfinished of a generation; a finished one is noted for later.
forget() {
    [[ $1 =~ ^gen-[0-9]{8}-[0-9]{6}$ ]] || return 0
    rm -rf "${ROOT:?}/$1.work"
    if [[ ! -e $ROOT/$1/manifest.json ]]; then
        rm -rf "${ROOT:?}/$1"
    elif [[ $1 != "$(live)" ]]; then
        note_unpublished "$1"
    fi
}
note_unpublished() {
    grep -qsx "$1" "$ROOT/.nightly-unpublished" || echo "$1" >>"$ROOT/.nightly-unpublished" ||
        fail "$ROOT/.nightly-unpublished: cannot be written"
}

# A name of this second that nothing has, noted with its job before anything is made under it.
new_name() {
    local note=$ROOT/.nightly-building
    while :; do
        name=gen-$(date -u +%Y%m%d-%H%M%S)
        [[ -e $ROOT/$name || -e $ROOT/$name.work ]] || break
        sleep 0.1
    done
    # On disk before the build is: a note that a power cut lost would leave the work ownerless.
    if ! printf '%s\n%s\n' "$name" "$(job)" >"$note.tmp" || ! sync "$note.tmp" ||
        ! mv -f "$note.tmp" "$note"; then
        rm -f "$note.tmp"
        name=''
        fail "$note: cannot be written"
    fi
}

# Takes up what the last run left, if it was the same work; else what it left goes. True: taken up.
resume() {
    local note=$ROOT/.nightly-building last
    [[ -s $note ]] || return 1
    last=$(head -n 1 "$note")
    if [[ $last =~ ^gen-[0-9]{8}-[0-9]{6}$ && $(tail -n +2 "$note") == "$(job)" ]] &&
        [[ -e $ROOT/$last || -e $ROOT/$last.work ]]; then
        name=$last
        return 0
    fi
    forget "$last"
    rm -f "$note"
    return 1
}

run_build() {
    local -a options
    read -r -a options <<<"$BUILD_OPTIONS"
    # Finished, but for the removal of its work at most.
    [[ ! -e $ROOT/$name/manifest.json || -e $ROOT/$name.work ]] || return 0
    run nightjar-build --input "$INPUT" --output "$ROOT/$name" --metric "$METRIC" \
        ${KEYS:+--keys "$KEYS"} ${MEMORY:+--memory "$MEMORY"} ${THREADS:+--threads "$THREADS"} \
        ${options[@]+"${options[@]}"}
}

build() {
    step=build
    if resume; then
        echo "$ME: goes on with $name"
        run_build && return
        # It failed by itself, perhaps by what it found: another try starts from nothing.
        echo "$ME: $name could not be finished ($(reason nightjar-build)): starts over" >&2
        forget "$name"
    fi
    new_name
    if ! run_build; then
        # A failure before the first finished piece leaves nothing to go on with.
        [[ -e $ROOT/$name.work ]] || rm -f "$ROOT/.nightly-building"
        fail "$(reason nightjar-build)"
    fi
}

# --- publish -------------------------------------------------------------------------------------

# A generation that is not good enough is not taken up again; it stays to be looked at.
reject() {
    note_unpublished "$name"
    rm -f "$ROOT/.nightly-building"
    fail "$(reason nightjar)"
}

publish() {
    local truth=$GROUNDTRUTH
    local -a gate=() options
    step=verify
    run nightjar verify "$ROOT/$name" || reject
    if [[ -n $QUERIES && -z $truth ]]; then
        step=groundtruth truth=$tmp/truth.bin
        run nightjar groundtruth --input "$INPUT" --queries "$QUERIES" --output "$truth" -k 100 \
            --metric "$METRIC" ${THREADS:+--threads "$THREADS"} || fail "$(reason nightjar)"
    fi
    step=publish
    read -r -a options <<<"$PUBLISH_OPTIONS"
    [[ -z $REQUIRE_RECALL ]] || gate=(--require-recall "$REQUIRE_RECALL")
    [[ -z $QUERIES ]] || gate+=(--queries "$QUERIES" --groundtruth "$truth")
    run nightjar publish --root "$ROOT" ${gate[@]+"${gate[@]}"} \
        ${options[@]+"${options[@]}"} "$name" || reject
    recall=$(sed -n 's/.* recall@[0-9]* \([0-9.]*\) at L .*/\1/p' "$tmp/out" | head -n 1)
    rm -f "$ROOT/.nightly-building"
}

generation_count() {
    find "$ROOT" -mindepth 2 -maxdepth 2 -name manifest.json | wc -l
}

# prune LIVE_BEFORE: what nights before this one left unpublished, then what is too old. One that was
# live has been published by hand since; one that a process has open (it then holds a lock) waits.
prune() {
    local before gone
    local -a waiting=()
    step=prune
    before=$(generation_count)
    while IFS= read -r gone; do
        [[ $gone =~ ^gen-[0-9]{8}-[0-9]{6}$ && -e $ROOT/$gone ]] || continue
        [[ $gone != "$1" && $gone != "$name" ]] || continue
        # Under this name nothing opens it, and nightjar prune removes it, also after a kill.
        flock -n -x "$ROOT/$gone" mv -T "$ROOT/$gone" "$ROOT/.removing-$gone" || waiting+=("$gone")
    done < <(cat "$ROOT/.nightly-unpublished" 2>/dev/null)
    rm -f "$ROOT/.nightly-unpublished"
    for gone in ${waiting[@]+"${waiting[@]}"}; do
        note_unpublished "$gone"
    done
    run nightjar prune --root "$ROOT" --keep "$KEEP" || fail "$(reason nightjar)"
    pruned=$((before - $(generation_count)))
}

# --- the night -----------------------------------------------------------------------------------

if [[ ${1-} == --help ]]; then
    sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
if (($# > 1)) || [[ ${1-} == -* ]]; then
    usage "usage: $ME [CONFIG]"
fi
(($# == 0)) || read_config "$1"
check_settings
# Where this script is installed, the programs are.
PATH=$(dirname "${BASH_SOURCE[0]}"):$PATH
trap on_exit EXIT
trap on_stop TERM INT HUP

started=$SECONDS recall='' pruned=0
exec 9>>"$ROOT/.nightly.lock" || fail "$ROOT/.nightly.lock: cannot be opened"
flock -n 9 || fail "another night is at work in $ROOT"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/$ME.XXXXXX") || fail "cannot make a temporary directory"
live_before=$(live)

build
build_s=$((SECONDS - started))
publish
if [[ -n $SOCKET ]]; then
    step=reload
    run nightjar reload --socket "$SOCKET" || fail "$(reason nightjar)"
fi
prune "$live_before"
vectors=$(nightjar info --json "$ROOT/$name" | sed -n 's/.*"vector_count":\([0-9]*\).*/\1/p')
done_line="$ME: ok gen=$name vectors=$vectors build_s=$build_s recall=${recall:--} published=yes pruned=$pruned"
