#!/usr/bin/env bash
# Brings the live generation of ROOT to another root, on another host as a rule, and makes it live
# there. Installed as nightjar-standby.
#
#   standby.sh ROOT [[USER@]HOST:]ROOT2
#
# The copy is made in ROOT2/.incoming-NAME, with manifest.json last: until it is there, nothing opens
# the directory. Then that host reads all of it (`nightjar verify`), its digest is compared with the
# one here, and only then is it renamed to NAME and published. A copy that was cut off goes on where it
# was when this is run again; what differs is sent anew then. One that is whole and live is left alone.
#
# Environment: REMOTE_NIGHTJAR  the nightjar command on that host (nightjar)
#              SSH              how to get there (ssh); words, as in "ssh -p 2222"
# Needs rsync on both hosts. Exit status: 0 live there; 1 failed; 2 wrong usage.
set -euo pipefail
export LC_ALL=C

readonly ME=nightjar-standby

fail() {
    echo "$ME: $1" >&2
    exit "${2-1}"
}

if [[ ${1-} == --help ]]; then
    sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
if (($# != 2)) || [[ $1 == -* || $2 == -* ]]; then
    fail "usage: $ME ROOT [[USER@]HOST:]ROOT2" 2
fi
# Where this script is installed, the programs are.
PATH=$(dirname "${BASH_SOURCE[0]}"):$PATH
root=$1 host='' there=$2
# As rsync has it: a colon after a slash is part of a path.
if [[ $2 =~ ^([^/:]+):(.*)$ ]]; then
    host=${BASH_REMATCH[1]} there=${BASH_REMATCH[2]}
fi
[[ -n $there ]] || fail "$2: no directory is named" 2
remote_nightjar=${REMOTE_NIGHTJAR:-nightjar}
read -r -a ssh <<<"${SSH:-ssh}"

# on_host SCRIPT ARGUMENT...: bash there runs the script, which sees the arguments as they are here.
# Its text comes by stdin, so that only the arguments pass a shell whose quoting we do not choose.
on_host() {
    local script=$1 words='' word
    shift
    if [[ -z $host ]]; then
        bash -s -- "$@" <<<"$script"
        return
    fi
    for word in "$@"; do
        words+=" '${word//\'/\'\\\'\'}'"
    done
    "${ssh[@]}" -- "$host" "exec bash -s --$words" <<<"$script"
}

# send OPTION...: the generation into .incoming-NAME.
send() {
    # In place, for what a kill leaves is then under its name and not in a temporary that the next run
    # would not look at. By delta, so that it is not sent twice.
    rsync --recursive --times --inplace --no-whole-file --protect-args --rsh="${ssh[*]}" "$@" \
        -- "$root/$name/" "${host:+$host:}$there/.incoming-$name/"
}

# shellcheck disable=SC2016 # these are for the other host's shell
readonly STATE='
    cd -- "$1" || exit
    sum=none
    [[ ! -e $2/manifest.json ]] || sum=$(sha256sum <"$2/manifest.json")
    if [[ $sum == "$3" && $(readlink current) == "$2" ]]; then
        echo live
    elif [[ $sum == "$3" ]]; then
        echo here
    elif [[ -e $2 ]]; then
        echo other
    elif [[ -e .incoming-$2 ]]; then
        echo begun
    else
        echo none
    fi'
# Copies of other generations were cut off for good. Without its manifest a copy is none, whatever
# happens while it is completed.
# shellcheck disable=SC2016
readonly PREPARE='
    cd -- "$1" || exit
    for old in .incoming-*; do
        [[ $old == ".incoming-$2" ]] || rm -rf -- "$old"
    done
    rm -f -- ".incoming-$2/manifest.json"'
# shellcheck disable=SC2016
readonly FLUSH='sync -f -- "$1/.incoming-$2"'
# Reads every byte twice, once to name a damaged block, once to compare with where it came from.
# shellcheck disable=SC2016
readonly CHECK='
    "$2" verify -- "$1" >&2 || exit
    digest=$("$2" verify --digest -- "$1") || exit
    if [[ $digest != "$3" ]]; then
        echo "$1: digest $digest, but it is $3 where it comes from" >&2
        exit 1
    fi'
# shellcheck disable=SC2016
readonly RENAME='cd -- "$1" && mv -T -- ".incoming-$2" "$2" && sync -f -- .'
# shellcheck disable=SC2016
readonly PUBLISH='"$3" publish --root "$1" "$2"'

[[ -d $root ]] || fail "$root: no such directory"
name=$(readlink "$root/current") || fail "$root: nothing is published"
[[ $name =~ ^[^/]+$ && -e $root/$name/manifest.json ]] || fail "$root/current: names no generation"
sum=$(sha256sum <"$root/$name/manifest.json")

state=$(on_host "$STATE" "$there" "$name" "$sum") || fail "$2: cannot be reached"
case $state in
live)
    echo "$ME: ok gen=$name copied=no: it is live in $2"
    exit 0
    ;;
other) fail "$2/$name: is there and is not the generation of $root: remove it, or publish another" ;;
esac
digest=$(nightjar verify --digest "$root/$name") || fail "$root/$name: cannot be read"
copied=no arrived=$name
if [[ $state != here ]]; then
    copied=yes arrived=.incoming-$name
    on_host "$PREPARE" "$there" "$name" || fail "$2: cannot be written"
    # What lies there may be damaged: times alone would let it pass.
    again=()
    [[ $state == none ]] || again=(--checksum)
    send --exclude=/manifest.json --delete ${again[@]+"${again[@]}"} ||
        fail "$2: the copy of $name is not complete: the same command goes on with it"
    on_host "$FLUSH" "$there" "$name" || fail "$2: the copy of $name cannot be brought to disk"
    send || fail "$2: the copy of $name is not complete: the same command goes on with it"
fi
on_host "$CHECK" "$there/$arrived" "$remote_nightjar" "$digest" ||
    fail "$2/$arrived: is not what $root/$name is: not published"
if [[ $arrived != "$name" ]]; then
    on_host "$RENAME" "$there" "$name" || fail "$2/$arrived: cannot be renamed"
fi
on_host "$PUBLISH" "$there" "$name" "$remote_nightjar" >/dev/null ||
    fail "$2: $name has arrived whole and cannot be published"
echo "$ME: ok gen=$name copied=$copied: it is live in $2"
