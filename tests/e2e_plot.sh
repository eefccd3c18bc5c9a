#!/usr/bin/env bash
# The plots of the benchmark: tools/scripts/plot.awk draws well-formed SVG with a line for each
# series, whatever the names and numbers, and refuses what is no point. Ends with `N passed, N failed`.
set -uo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
# shellcheck source=tests/counts.sh
source "$here/counts.sh" || exit 1
plot=$here/../tools/scripts/plot.awk
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-plot.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# rows SERIES X Y ...: a row for each three
rows() {
    printf '%s\t%s\t%s\n' "$@"
}
# well_formed FILE: xmllint's word where it is installed; else that every element is closed in order
# and no bare <, > or & is left.
well_formed() {
    if command -v xmllint >/dev/null; then
        xmllint --noout "$1" 2>err
        return
    fi
    awk '
        { all = all $0 "\n" }
        END {
            while (match(all, /<[^>]*>/)) {
                if (substr(all, 1, RSTART - 1) ~ /[<>]|&($|[^alqg])/) exit 1
                tag = substr(all, RSTART + 1, RLENGTH - 2)
                all = substr(all, RSTART + RLENGTH)
                if (tag ~ /\/$/) continue
                split(tag, word, /[ \/\n]/)
                if (tag ~ /^\//) { if (open[depth--] != word[2]) exit 1 }
                else open[++depth] = word[1]
            }
            exit depth != 0
        }' "$1"
}
# drawn CLAIM LINES TITLE ARGUMENT... <rows: an SVG with so many lines and that title
drawn() {
    local claim=$1 lines=$2 title=$3
    shift 3
    if ! awk "$@" -f "$plot" >out.svg 2>err; then
        fail "$claim: exit $?"
    elif [[ -s err ]] || ! well_formed out.svg; then
        fail "$claim: not well-formed"
    elif (($(grep -c '<polyline ' out.svg) != lines)); then
        fail "$claim: $(grep -c '<polyline ' out.svg) lines, not $lines"
    elif ! grep -qF "<title>$title</title>" out.svg; then
        fail "$claim: no title"
    elif grep -qiE 'nan|inf|@import|url\(|href' out.svg; then
        fail "$claim: a number that is none, or something from outside"
    else
        pass
    fi
}
# refused CLAIM PHRASE ARGUMENT... <rows: exit 1, one line
refused() {
    local claim=$1 phrase=$2 status=0
    shift 2
    awk "$@" -f "$plot" >out.svg 2>err || status=$?
    if ((status == 1)) && [[ ! -s out.svg ]] && (($(wc -l <err) == 1)) && grep -qF "$phrase" err; then
        pass
    else
        fail "$claim: exit $status"
    fi
}
# label TEXT: the last plot has this text in it
label() {
    if grep -qF ">$1</text>" out.svg; then
        pass
    else
        fail "no text '$1'"
    fi
}

drawn "two series" 2 "QPS by recall" -v title="QPS by recall" -v x_label=recall -v y_label=QPS \
    < <(rows a 0.75 8000 a 0.9 5000 a 0.99 1000 b 0.8 3000 b 0.95 400)
label recall
label QPS
label 0.75
label a
if (($(grep -c '<path ' out.svg) == 5 + 2)); then
    pass
else
    fail "a mark for each point, and one in the legend for each series"
fi
drawn "a logarithmic axis leaves out what has no place on it" 1 T -v title=T -v y_log=1 \
    < <(rows a 0.75 8000 a 0.9 0 a 0.99 1000 b 0.8 0)
label 1000
drawn "names are escaped" 1 'x &lt; &amp;' -v 'title=x < &' \
    < <(rows 'a < b & "c"' 1 2 'a < b & "c"' 2 3)
label 'a &lt; b &amp; &quot;c&quot;'
drawn "one point" 1 "" -v x_log=1 \
    < <(rows one 5 5)
drawn "one point at zero" 1 "" \
    < <(rows one 0 0)
drawn "all of one height" 1 "" \
    < <(rows flat -3 7 flat 4e3 7)
drawn "small and large numbers" 1 "" -v x_log=1 \
    < <(rows tiny 1e-9 1e12 tiny 2e-9 3e12)
drawn "many series" 20 "" \
    < <(for s in {1..20}; do rows "series $s" 1 "$s" "series $s" 2 "$s"; done)
refused "nothing" "no points" </dev/null
refused "nothing left" "no points" -v x_log=1 \
    < <(rows a 0 1)
refused "no number" "line 2" \
    < <(rows a 1 2 a x 3)
refused "no third column" "line 1" \
    < <(printf 'a\t1\n')

# Without xmllint the check is our own: it must find what is wrong.
for broken in '<svg><g></svg></g>' '<svg>' '<svg>a & b</svg>' '<svg><text>1 < 2</text></svg>'; do
    echo "$broken" >broken.svg
    if well_formed broken.svg; then
        fail "$broken passes for well-formed"
    else
        pass
    fi
done
: >err

summary
