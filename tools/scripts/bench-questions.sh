#!/usr/bin/env bash
# Measures what a query may ask beside the k nearest: filters, radii, metrics and recall, each
# against exact answers under the same predicate or radius. `make bench-questions` runs it.
#
#   bench-questions.sh BUILD_DIR OUT_DIR DATA_DIR
#
# DATA_DIR holds base.* and query.*. Attributes are made up by `nightjar generate --attributes`: u is
# uniform whatever the vector, c goes by the vector's distance to one of the base, both 0..999999.
#
#   PARTS="filters radius metrics"   what to measure (default: these)
#   QUERIES=1000  of query.*, the first; THREADS=2; ROWS: of base.*, the first (default: all)
#
# Tables (Markdown) go to stdout. OUT_DIR/questions takes some ten times the size of the base.
set -euo pipefail
export LC_ALL=C OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

if (($# != 3)); then
    sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
mkdir -p "$2/questions"
out=$(cd "$2/questions" && pwd)
data=$(cd "$3" && pwd)
PATH=$build:$PATH
parts=" ${PARTS:-filters radius metrics} "
threads=${THREADS:-2}
queries=${QUERIES:-1000}
cd "$out"

quiet() {
    "$@" >>log 2>&1 || {
        tail -n 3 log >&2
        exit 1
    }
}
only_file() {
    local found=("$data/$1".*)
    if ((${#found[@]} != 1)) || [[ ! -e ${found[0]} ]]; then
        echo "bench-questions: wanted one $data/$1.*" >&2
        exit 1
    fi
    echo "${found[0]}"
}
base=$(only_file base)
query=query.${base##*.}
rm -rf log gen gen-* truth.bin
quiet nightjar convert --input "$(only_file query)" --output "$query" --limit "$queries"
if [[ -n ${ROWS-} ]]; then
    quiet nightjar convert --input "$base" --output "base.${base##*.}" --limit "$ROWS"
    base=$out/base.${base##*.}
fi

# measure INDEX ARGUMENT...: recall, reads, QPS and CPU of a setting, as cells of a table's row
measure() {
    local index=$1
    shift
    nightjar bench --index "$index" --memory codes --threads "$threads" --queries "$query" \
        --groundtruth truth.bin --concurrency 16 --duration 1 --json "$@" 2>>log |
        awk '{
            n = split("recall:%.4f reads_per_query:%.1f qps:%.0f cpu_us_per_query:%.0f", cell, " ")
            for (i = 1; i <= n; i++) {
                split(cell[i], part, ":")
                match($0, "\"" part[1] "\":[^,}]*")
                value = substr($0, RSTART, RLENGTH)
                sub(/.*:/, "", value)
                printf " " part[2] " |", value
            }
        }'
}

filters() {
    local column share below setting
    quiet nightjar generate --input "$base" --attributes base.csv
    quiet nightjar-build --input "$base" --attributes base.csv --output gen --threads "$threads"
    printf '\n### Filters (recall@10 among what matches; 16 clients, codes in memory alone)\n\n'
    printf '| filter | matches | setting | recall | reads | QPS | CPU us |\n|---|---:|---|---:|---:|---:|---:|\n'
    for column in u c; do
        for share in 50 10 1 0.1 0.01; do
            below=$(awk "BEGIN { printf \"%d\", $share * 10000 }")
            quiet nightjar groundtruth --input "$base" --queries "$query" --output truth.bin -k 10 \
                --attributes base.csv --filter "$column < $below" --threads "$threads"
            for setting in "--search-list 30" "--search-list 60" "--recall 0.95"; do
                # shellcheck disable=SC2016,SC2086 # an option and its value
                printf '| `%s < %s` | %s %% | `%s` |%s\n' "$column" "$below" "$share" "$setting" \
                    "$(measure gen -k 10 --filter "$column < $below" $setting)"
            done
        done
    done
}

# Radii by what they hold: a share of the queries' distances to their k-th neighbour.
radius() {
    local radius k
    [[ -d gen ]] || quiet nightjar-build --input "$base" --output gen --threads "$threads"
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
            # shellcheck disable=SC2016,SC2086 # options and their values
            printf '| %s | %s | `%s` |%s\n' "$radius" "$mean" "$setting" \
                "$(measure gen -k 4096 --radius "$radius" $setting)"
        done
    done
}

# The same vectors as they are and as f32, by each metric.
metrics() {
    local name input metric list
    local -a options
    printf '\n### Types and metrics (recall@10; 16 clients, codes in memory alone)\n\n'
    printf '| type | metric | stored | L | recall | reads | QPS | CPU us |\n|---|---|---|---:|---:|---:|---:|---:|\n'
    quiet nightjar convert --input "$base" --output f32.fbin
    quiet nightjar convert --input "$query" --output query.fbin
    for name in given:l2:same given:ip:same f32:l2:same f32:cosine:same f32:ip:same f32:l2:f16 \
        f32:l2:bf16 f32:l2:i8 f32:ip:i8 f32:cosine:f16; do
        IFS=: read -r input metric store <<<"$name"
        local from=$base
        query=query.${base##*.}
        if [[ $input == f32 ]]; then
            from=f32.fbin query=query.fbin
        fi
        options=(--input "$from" --metric "$metric" --threads "$threads" --store "$store")
        rm -rf "gen-one"
        quiet nightjar-build "${options[@]}" --output gen-one
        quiet nightjar groundtruth --input "$from" --queries "$query" --output truth.bin -k 10 \
            --metric "$metric" --threads "$threads"
        for list in 20 40; do
            printf '| %s | %s | %s | %d |%s\n' "${from##*.}" "$metric" "$store" "$list" \
                "$(measure gen-one -k 10 --search-list "$list")"
        done
    done
    rm -rf gen-one f32.fbin
    query=query.${base##*.}
}

for part in filters radius metrics; do
    [[ $parts != *" $part "* ]] || "$part"
done
