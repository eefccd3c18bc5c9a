#!/usr/bin/env bash
# Measures what a query may ask beside the k nearest: filters, radii, metrics and recall, each
# against exact answers under the same predicate or radius. `make bench-questions` runs it.
#
#   bench-questions.sh BUILD_DIR OUT_DIR [DATA_DIR]
#
# DATA_DIR holds base.* and query.*. PARTS are what to measure (default: the first three):
#
#   filters  under filters, beside searches without one that keep what matches (post-filtering).
#            Attributes are made up by `nightjar generate --attributes`: u is uniform whatever the
#            vector, c goes by the vector's distance to one of the base, both 0..999999
#   radius   all within a radius
#   metrics  element types and metrics
#   hard     recall targets: for query.*, for means of two vectors, and for these with others of
#            their kind as --tune-queries
#   stores   what --store costs: the first 200,000 vectors as floats
#   lengths  inner product of 100,000 vectors whose lengths vary; made up, needs no DATA_DIR
#
#   QUERIES=1000  of query.*, the first, or made up; THREADS=2
#   ROWS: of base.*, the first (default: all), or made up
#
# Tables (Markdown) go to stdout. OUT_DIR/questions takes some ten times the size of the base.
# shellcheck disable=SC2016 # Markdown's backquotes
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

if (($# < 2 || $# > 3)); then
    sed -n '2,/^# shellcheck/{/shellcheck/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
known="filters radius metrics hard stores lengths"
parts=" ${PARTS:-filters radius metrics} "
for part in $parts; do
    if [[ " $known " != *" $part "* ]]; then
        echo "bench-questions: $part: no such part, wanted some of: $known" >&2
        exit 2
    elif [[ $part != lengths && $# == 2 ]]; then
        echo "bench-questions: $part: wanted a folder of base.* and query.* (DATA=DIR)" >&2
        exit 2
    fi
done
build=$(cd "$1" && pwd)
mkdir -p "$2/questions"
out=$(cd "$2/questions" && pwd)
data=""
(($# == 2)) || data=$(cd "$3" && pwd)
PATH=$build:$PATH
threads=${THREADS:-2}
queries=${QUERIES:-1000}
truth=truth.bin
cd "$out"

fail() {
    tail -n 3 log >&2
    exit 1
}
quiet() {
    "$@" >>log 2>&1 || fail
}
only_file() {
    local found=("$data/$1".*)
    if ((${#found[@]} != 1)) || [[ ! -e ${found[0]} ]]; then
        echo "bench-questions: wanted one $data/$1.*" >&2
        exit 1
    fi
    echo "${found[0]}"
}
rm -rf log gen gen-* truth.bin
if [[ -n $data ]]; then
    base=$(only_file base)
    given=$(only_file query)
    type=${base##*.}
    query=query.$type
    quiet nightjar convert --input "$given" --output "$query" --limit "$queries"
    if [[ -n ${ROWS-} ]]; then
        quiet nightjar convert --input "$base" --output "base.$type" --limit "$ROWS"
        base=$out/base.$type
    fi
fi

# measure INDEX ARGUMENT...: recall, reads, QPS and CPU of a setting, on a line
measure() {
    local index=$1
    shift
    nightjar bench --index "$index" --memory codes --threads "$threads" --queries "$query" \
        --groundtruth "$truth" --concurrency 16 --duration 1 --json "$@" >point 2>>log || fail
    awk '{
        n = split("recall:%.4f reads_per_query:%.1f qps:%.0f cpu_us_per_query:%.0f", cell, " ")
        for (i = 1; i <= n; i++) {
            split(cell[i], part, ":")
            match($0, "\"" part[1] "\":[^,}]*")
            value = substr($0, RSTART, RLENGTH)
            sub(/.*:/, "", value)
            printf part[2] (i < n ? " " : "\n"), value
        }
    }' point
}
# row LABELS INDEX ARGUMENT...: a row of a table: labels and what was measured
row() {
    local labels=$1 numbers
    shift
    numbers=$(measure "$@")
    printf '%s | %s |\n' "$labels" "${numbers// / | }"
}
# cell INDEX ARGUMENT...: recall and reads as one cell of a row; QPS and CPU are left in $speed
cell() {
    local numbers recall reads qps cpu
    numbers=$(measure "$@")
    read -r recall reads qps cpu <<<"$numbers"
    printf ' %.3f, %s |' "$recall" "$reads"
    speed="$qps, $cpu"
}
# generation: an index of the base in gen, if there is none
generation() {
    [[ -d gen ]] || quiet nightjar-build --input "$base" --output gen --threads "$threads"
}

# unfiltered K: the nearest K to keys-K.ibin and the mean of their reads to reads-K
unfiltered() {
    nightjar search --index gen --memory codes --threads "$threads" --queries "$query" -k "$1" \
        --search-list "$1" --output "keys-$1.ibin" --explain >explained 2>>log || fail
    awk '$1 == "mean" { print $2 }' explained >"reads-$1"
}
# right_answers: a line a query of $truth, 20 deep: how many are wanted, then the rows that count:
# the ten nearest, and what is as far as the tenth
right_answers() {
    quiet nightjar convert --input "$truth" --output right.ivecs --distances-output right.fvecs
    paste <(od -An -v -t d4 -w84 right.ivecs) <(od -An -v -t f4 -w84 right.fvecs) | awk '{
        rows = ""
        for (i = 2; i <= 21 && $i >= 0 && (i <= 11 || $(i + 21) == $32); i++)
            rows = rows " " $i
        print (i < 12 ? i - 2 : 10) rows
    }'
}
# post_filter COLUMN BELOW: cells of the first ten that match among the nearest K
post_filter() {
    local k recall field=1
    [[ $1 == u ]] || field=2
    awk -F, -v field="$field" -v below="$2" 'NR > 1 && $field < below { print NR - 2 }' \
        base.csv >matching
    right_answers >right
    for k in "${post[@]}"; do
        recall=$(od -An -v -j 8 -t d4 -w$((4 * k)) "keys-$k.ibin" | awk '
            FILENAME == "matching" { matches[$1]; next }
            FILENAME == "right" { right[FNR] = $0; next }
            {
                n = split(right[FNR], rows, " ")
                wanted += rows[1]
                split("", counts)
                for (i = 2; i <= n; i++)
                    counts[rows[i]]
                kept = 0
                for (i = 1; i <= NF && kept < 10; i++)
                    if ($i in matches) {
                        kept++
                        found += $i in counts
                    }
            }
            END { printf "%.3f", (wanted > 0 ? found / wanted : 1) }' matching right -)
        printf ' %s, %s |' "$recall" "$(<"reads-$k")"
    done
}
filters() {
    local column share below k setting speeds
    local -a post=(100 400 1600) settings=("--search-list 30" "--search-list 60" "--recall 0.95") slow
    quiet nightjar generate --input "$base" --attributes base.csv
    quiet nightjar-build --input "$base" --attributes base.csv --output gen --threads "$threads"
    for k in "${post[@]}"; do
        unfiltered "$k"
    done
    printf '\n### Filters (recall@10 among what matches, reads; codes in memory alone)\n\n'
    printf '| filter | matches | L 30 | L 60 | `--recall 0.95` | post-filter L 100 | L 400 | L 1600 |\n'
    printf '|---|---:|---:|---:|---:|---:|---:|---:|\n'
    for column in u c; do
        for share in 50 10 1 0.1 0.01; do
            below=$(awk "BEGIN { printf \"%d\", $share * 10000 }")
            quiet nightjar groundtruth --input "$base" --queries "$query" --output "$truth" -k 20 \
                --attributes base.csv --filter "$column < $below" --threads "$threads"
            printf '| `%s < %s` | %s %% |' "$column" "$below" "$share"
            speeds="| \`$column < $below\` |"
            for setting in "${settings[@]}"; do
                # shellcheck disable=SC2086 # an option and its value
                cell gen -k 10 --filter "$column < $below" $setting
                speeds+=" $speed |"
            done
            post_filter "$column" "$below"
            echo
            slow+=("$speeds")
        done
    done
    printf '\nQPS of 16 clients, CPU us:\n\n'
    printf '| filter | L 30 | L 60 | `--recall 0.95` |\n|---|---:|---:|---:|\n'
    printf '%s\n' "${slow[@]}"
}

# Radii by what they hold: a share of the queries' distances to their k-th neighbour.
radius() {
    local radius k
    generation
    printf '\n### Radii (found of all within; 16 clients, codes in memory alone)\n\n'
    printf '| radius | within, mean | setting | recall | reads | QPS | CPU us |\n|---:|---:|---|---:|---:|---:|---:|\n'
    quiet nightjar groundtruth --input "$base" --queries "$query" --output truth.bin -k 100 --threads "$threads"
    quiet nightjar convert --input truth.bin --output ids.ivecs --distances-output distances.fvecs
    for k in 1 10 100; do
        radius=$(od -An -v -t f4 -w$((4 * 101)) distances.fvecs | awk -v k="$k" '{ print $(k + 1) }' |
            sort -g | awk '{ d[NR] = $1 } END { print d[int((NR + 1) / 2)] }')
        quiet nightjar groundtruth --input "$base" --queries "$query" --output range.bin \
            --radius "$radius" --cap 4096 --threads "$threads"
        cp range.bin truth.bin
        local mean
        mean=$(od -An -v -t u4 -N 8 range.bin | awk '{ printf "%.1f", $2 / $1 }')
        for setting in "--search-list 20" "--search-list 40" "--search-list 40 --search-ratio 1.1"; do
            # shellcheck disable=SC2086 # options and their values
            row "| $radius | $mean | \`$setting\`" gen -k 4096 --radius "$radius" $setting
        done
    done
}

# The same vectors as they are and as f32, by each metric.
metrics() {
    local name input metric store list from
    local -a options
    local query=$query
    printf '\n### Types and metrics (recall@10; 16 clients, codes in memory alone)\n\n'
    printf '| type | metric | stored | L | recall | reads | QPS | CPU us |\n|---|---|---|---:|---:|---:|---:|---:|\n'
    quiet nightjar convert --input "$base" --output f32.fbin
    quiet nightjar convert --input "$query" --output f32-query.fbin
    for name in given:l2:same given:ip:same f32:l2:same f32:cosine:same f32:ip:same f32:l2:f16 \
        f32:l2:bf16 f32:l2:i8 f32:ip:i8 f32:cosine:f16; do
        IFS=: read -r input metric store <<<"$name"
        from=$base query=query.$type
        if [[ $input == f32 ]]; then
            from=f32.fbin query=f32-query.fbin
        fi
        options=(--input "$from" --metric "$metric" --threads "$threads" --store "$store")
        rm -rf gen-one
        quiet nightjar-build "${options[@]}" --output gen-one
        quiet nightjar groundtruth --input "$from" --queries "$query" --output truth.bin -k 10 \
            --metric "$metric" --threads "$threads"
        for list in 20 40; do
            row "| ${from##*.} | $metric | $store | $list" gen-one -k 10 --search-list "$list"
        done
    done
    rm -rf gen-one f32.fbin
}

# Recall targets, which are of queries like the vectors, where queries are of another kind.
hard() {
    local means=means.$type tuning=tuning.$type k target
    generation
    quiet nightjar generate --input "$base" --queries-output "$means" --query-count 1000 --seed 1
    quiet nightjar generate --input "$base" --queries-output "$tuning" --query-count 1000 --seed 2
    quiet nightjar-build --input "$base" --tune-queries "$tuning" --output gen-tuned --threads "$threads"
    quiet nightjar groundtruth --input "$base" --queries "$query" --output truth.bin -k 100 \
        --threads "$threads"
    quiet nightjar groundtruth --input "$base" --queries "$means" --output truth-means.bin -k 100 \
        --threads "$threads"
    printf '\n### Recall targets (recall, reads; codes in memory alone, one read in flight)\n\n'
    printf '| k | target | queries like the vectors | means | means, tuned |\n|---:|---:|---:|---:|---:|\n'
    for k in 1 10 100; do
        for target in 0.8 0.9 0.95 0.98 0.99; do
            local -a setting=(-k "$k" --recall "$target" --beam-width 1)
            printf '| %d | %s |' "$k" "$target"
            cell gen "${setting[@]}"
            query=$means truth=truth-means.bin cell gen "${setting[@]}"
            query=$means truth=truth-means.bin cell gen-tuned "${setting[@]}"
            echo
        done
    done
    rm -rf gen-tuned
}

# Scaled, since whole numbers of a byte are the same in every type.
stores() {
    local store list
    local query=f32-query.fbin
    quiet nightjar convert --input "$base" --output f32.fbin --scale 0.3 --limit 200000
    quiet nightjar convert --input "query.$type" --output "$query" --scale 0.3
    quiet nightjar groundtruth --input f32.fbin --queries "$query" --output "$truth" -k 10 \
        --threads "$threads"
    printf '\n### What --store costs (recall@10, reads; codes in memory alone, one read in flight)\n\n'
    printf '| `--store` | bytes of `nodes.blk` | nodes a block | L 20 | L 40 | L 80 |\n'
    printf '|---|---:|---:|---:|---:|---:|\n'
    for store in same f16 bf16 i8; do
        rm -rf gen-one
        quiet nightjar-build --input f32.fbin --store "$store" --output gen-one --threads "$threads"
        nightjar info --json gen-one >gen-one.json 2>>log || fail
        printf '| `%s` | %d | %d |' "$store" "$(stat -c %s gen-one/nodes.blk)" \
            "$(sed 's/.*"nodes_per_block":\([0-9]*\).*/\1/' gen-one.json)"
        for list in 20 40 80; do
            cell gen-one -k 10 --search-list "$list" --beam-width 1
        done
        echo
    done
    rm -rf gen-one f32.fbin
}

# lengths_row METRIC SHARDS LABEL: of lengths.fbin
lengths_row() {
    local list
    rm -rf gen-one
    quiet nightjar-build --input lengths.fbin --metric "$1" --shards "$2" --code-bytes 48 \
        --output gen-one --threads "$threads"
    quiet nightjar groundtruth --input lengths.fbin --queries "$query" --output "$truth" -k 10 \
        --metric "$1" --threads "$threads"
    printf '| `%s`%s | %d |' "$1" "$3" "$2"
    for list in 20 40 80; do
        cell gen-one -k 10 --search-list "$list" --beam-width 1
    done
    echo
}
lengths() {
    local sigma
    local query=lengths-query.fbin
    printf '\n### Lengths times exp(sigma N(0,1)) (recall@10, reads; codes in memory alone, one read in flight)\n\n'
    printf '| data | shards | L 20 | L 40 | L 80 |\n|---|---:|---:|---:|---:|\n'
    for sigma in 0 0.5 1 2; do
        quiet nightjar generate --output lengths.fbin --count "${ROWS:-100000}" --dim 96 --type f32 \
            --lengths "$sigma" --queries-output "$query" --query-count "$queries"
        [[ $sigma != 0 ]] || lengths_row l2 1 ""
        lengths_row ip 1 ", sigma $sigma"
        lengths_row ip 3 ", sigma $sigma"
    done
    rm -rf gen-one lengths.fbin
}

for part in $known; do
    [[ $parts != *" $part "* ]] || "$part"
done
