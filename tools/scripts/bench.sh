#!/usr/bin/env bash
# Measures what the README's tables say, on your data or on made-up vectors. `make bench` runs it.
#
#   bench.sh BUILD_DIR OUT_DIR [DATA_DIR]
#
# DATA_DIR holds base.*, query.* and their exact neighbours under l2 (gt*, truth* or groundtruth*).
# Without it, COUNT clustered u8 vectors of 128 dimensions are generated into OUT_DIR/data.
#
#   QUICK=1       short runs, few queries, no one-thread build: a look, not a measurement
#   PARTS="..."   of: build local socket device memory resident loaded metrics threads (default: these),
#                 and shards replication scaling: sharded builds, by budget, by borrowing, by size;
#                 graphs faiss dims: pipnn beside vamana and Faiss HNSW, f32;
#                 recall: what recall targets come to (after build);
#                 start: from the start of a daemon to its first answer, and swaps. Without build,
#                 the first nine measure the generation that an earlier run left in OUT_DIR
#   GENERATION=DIR  what the part start serves, asked the queries of DATA_DIR; MEMORY=0 for each
#   THREADS=2     of every build, search engine and daemon
#   COUNT=200000  vectors to generate
#   DURATION=3    least seconds of each line of a table
#   METRIC_ROWS=500000  most vectors of the cosine and ip builds
#   LIMIT_S=1500  a step that would not end within so many seconds is skipped, and says so
#
# Tables (Markdown) go to stdout, the same as JSON lines to OUT_DIR/*.json, plots of the parts local,
# socket and memory to OUT_DIR/*.svg, and what the commands log to OUT_DIR/bench.log. OUT_DIR takes
# some ten times the size of the base vectors.
set -euo pipefail
export LC_ALL=C
# Idle threads that spin would take the CPU from whatever else runs, the daemon for one.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

usage() {
    sed -n '2,/^set -/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}
(($# == 2 || $# == 3)) || usage
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1
build=$(cd "$1" && pwd) || exit 1
mkdir -p "$2"
out=$(cd "$2" && pwd) || exit 1
data=
[[ -z ${3-} ]] || data=$(cd "$3" && pwd) || exit 1
PATH=$build:$PATH

quick=${QUICK:-}
[[ $quick != 0 ]] || quick=
default() {
    if [[ -n $quick ]]; then echo "$2"; else echo "$1"; fi
}
threads=${THREADS:-2}
count=${COUNT:-200000}
duration=${DURATION:-$(default 3 0.3)}
metric_rows=${METRIC_ROWS:-$(default 500000 50000)}
limit_s=${LIMIT_S:-$(default 1500 180)}
# One client takes long for a line; its table uses the first of the queries.
single_queries=$(default 2000 300)
query_count=$(default 10000 1000)
parts=" ${PARTS:-build local socket device memory resident loaded metrics $([[ -n $quick ]] || echo threads)} "
readonly LISTS=10,20,30,40,60,80,100,150
readonly RATIOS=1,1.03,1.06,1.075,1.09,1.12,1.16,1.2
readonly BUILD_OPTIONS=(--degree 64 --code-bytes 32) # vamana's list is 100

log=$out/bench.log
: >"$log"
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-bench.XXXXXX") || exit 1
daemon=
cleanup() {
    if [[ -n $daemon ]]; then
        kill -TERM "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work" "$out/scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
rm -rf "$out/scratch"
mkdir "$out/scratch"

die() {
    echo "bench: $*" >&2
    exit 1
}
# quiet COMMAND...: what it prints goes to the log; when it fails, the end of that is shown.
quiet() {
    echo "\$ $*" >>"$log"
    "$@" >>"$log" 2>&1 || {
        tail -n 3 "$log" >&2
        die "failed: $*"
    }
}
wanted() {
    [[ $parts == *" $1 "* ]]
}
heading() {
    printf '\n### %s\n\n' "$1"
}
# fits SECONDS WHAT: whether a step of about so long still ends within the limit.
fits() {
    ((SECONDS + $1 > limit_s)) || return 0
    printf '(skipped: %s would take some %d s more; LIMIT_S is %d and %d s are gone)\n' \
        "$2" "$1" "$limit_s" "$SECONDS"
    return 1
}
# field NAME [FILE]: the first number of that name in JSON
field() {
    awk -v name="$1" 'match($0, "\"" name "\": *[0-9.]+") {
        value = substr($0, RSTART, RLENGTH)
        sub(/.*: */, "", value)
        print value
        exit
    }' "${2:--}"
}
calc() {
    awk "BEGIN { printf \"$1\", $2 }"
}

# For awk: the value of a member of the JSON in the line; "-" where there is none
# shellcheck disable=SC2016 # $0 is awk's
readonly VALUE='
    function value(name,    rest) {
        if (!match($0, "\"" name "\": *[^,}]*")) return "-"
        rest = substr($0, RSTART, RLENGTH)
        sub(/^"[^"]*": */, "", rest)
        return rest
    }'

# table COLUMN... <JSON lines: a Markdown table. A column is heading=name[*factor]:format.
table() {
    awk -v columns="$*" "$VALUE"'
        BEGIN {
            n = split(columns, column, " ")
            head = "|"; line = "|"
            for (i = 1; i <= n; i++) {
                split(column[i], part, /[=:*]/)
                gsub(/_/, " ", part[1])
                head = head " " part[1] " |"
                line = line "---:|"
                factor[i] = column[i] ~ /\*/ ? part[3] : 1
                name[i] = part[2]
                format[i] = column[i]
                sub(/.*:/, "", format[i])
            }
            print head "\n" line
        }
        {
            row = "|"
            for (i = 1; i <= n; i++) {
                v = value(name[i])
                row = row " " (v == "-" ? v : sprintf(format[i], v * factor[i])) " |"
            }
            print row
        }'
}
readonly POINT_COLUMNS=('recall@10=recall:%.4f' 'reads/query=reads_per_query:%.1f' 'QPS=qps:%.0f'
    'mean_ms=mean_us*0.001:%.2f' 'p50_ms=p50_us*0.001:%.2f' 'p99_ms=p99_us*0.001:%.2f'
    'CPU_µs/query=cpu_us_per_query:%.0f' 'reads/s=reads_per_second:%.0f')
readonly SEARCH_COLUMNS=('L=search_list:%d' "${POINT_COLUMNS[@]}")

# points FILE PART SERIES X Y [FACTOR]: two members of the lines of that part (empty: all lines), the
# first times FACTOR, as plot.awk reads them. %d in SERIES is the concurrency.
points() {
    awk -v part="$2" -v series="$3" -v x="$4" -v y="$5" -v factor="${6-1}" "$VALUE"'
        part == "" || value("part") == "\"" part "\"" {
            name = series
            sub(/%d/, value("concurrency"), name)
            printf "%s\t%.10g\t%s\n", name, value(x) * factor, value(y)
        }' "$out/$1.json"
}
# plot NAME TITLE X_LABEL Y_LABEL [Y_LOG] <points: OUT_DIR/NAME.svg
plot() {
    awk -v title="$2" -v x_label="$3" -v y_label="$4" -v y_log="${5-}" -f "$here/plot.awk" \
        >"$out/$1.svg"
    printf -- '- %s: %s\n' "$2" "$out/$1.svg"
}

# bench FILE MEMBERS ARGUMENT...: runs `nightjar bench`, adds MEMBERS (JSON) to each of its lines,
# keeps them in FILE and prints them.
bench() {
    local file=$out/$1.json members=$2
    shift 2
    echo "\$ nightjar bench $* --json" >>"$log"
    nightjar bench "$@" --json 2>>"$log" | sed "s/^{/{$members,/" | tee -a "$file" ||
        die "failed: nightjar bench $*: $(tail -n 1 "$log")"
}

# --- data --------------------------------------------------------------------------------------

# find_one WHAT PATTERN...: the first file of the data directory that matches
find_one() {
    local what=$1 pattern file
    shift
    for pattern in "$@"; do
        for file in "$data"/$pattern; do
            if [[ -f $file ]]; then
                echo "$file"
                return
            fi
        done
    done
    die "$data: no $what: want one of $*"
}

if [[ -z $data ]]; then
    data=$out/data
    stamp="count=$count queries=$query_count"
    if [[ $(cat "$data/stamp" 2>/dev/null) != "$stamp" ]]; then
        rm -rf "$data"
        mkdir "$data"
        quiet nightjar generate --output "$data/base.u8bin" --count "$count" --dim 128 --type u8 \
            --seed 1 --queries-output "$data/query.u8bin" --query-count "$query_count"
        quiet nightjar groundtruth --input "$data/base.u8bin" --queries "$data/query.u8bin" \
            --output "$data/truth.bin" -k 100 --metric l2 --threads "$threads"
        echo "$stamp" >"$data/stamp"
    fi
fi
base=$(find_one "base vectors" "base.*bin" "base.*vecs" "base.npy")
query=$(find_one "queries" "query.*bin" "query.*vecs" "query.npy" "queries.*bin")
truth=$(find_one "ground truth" "gt*" "truth*" "groundtruth*")

quiet nightjar convert --input "$query" --output "$out/scratch/few.${query##*.}" \
    --limit "$single_queries"
few=$out/scratch/few.${query##*.}
quiet nightjar convert --input "$truth" --output "$out/scratch/few-truth.bin" \
    --limit "$single_queries"
few_truth=$out/scratch/few-truth.bin

cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
printf '## Measured\n\n'
printf -- '- %s, %d CPUs, %s memory, Linux %s, %s on %s\n' "${cpu:-unknown CPU}" "$(nproc)" \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" "$(uname -r)" \
    "$(df --output=fstype "$out" | tail -n 1)" "$(df --output=source "$out" | tail -n 1)"
printf -- '- %s; base %s (%d bytes), queries %s, neighbours %s\n' "$(nightjar --version)" \
    "$(basename "$base")" "$(stat -c %s "$base")" "$(basename "$query")" "$(basename "$truth")"
printf -- '- %d threads, at least %s s a line, load before: %s\n' "$threads" "$duration" \
    "$(cut -d ' ' -f 1-3 /proc/loadavg)"

# --- build -------------------------------------------------------------------------------------

# report GENERATION: one JSON line of a build
report() {
    tr -d '\n' <"$1/build-report.json" | sed 's/  */ /g; s/^{/{"part":"build",/'
    echo
}
# build_table GENERATION...
build_table() {
    local gen r bytes wall cpu_s
    printf '| build | threads | wall s | CPU s | points/s/core | peak RSS MiB | index MiB |'
    printf ' bytes/vector |\n|---|---:|---:|---:|---:|---:|---:|---:|\n'
    for gen in "$@"; do
        r=$gen/build-report.json
        bytes=$(nightjar info --json "$gen" | field total_bytes)
        wall=$(grep '"total"' "$r" | field wall_s)
        cpu_s=$(grep '"total"' "$r" | field cpu_s)
        printf '| %s | %d | %.1f | %.1f | %.0f | %.1f | %.1f | %.1f |\n' "$(basename "$gen")" \
            "$(field threads "$r")" "$wall" "$cpu_s" "$(field points_per_second_core "$r")" \
            "$(calc %.1f "$(grep '"total"' "$r" | field peak_rss_bytes) / 1048576")" \
            "$(calc %.1f "$bytes / 1048576")" \
            "$(calc %.1f "$bytes / $(field vector_count "$r")")"
    done
}

root=$out/root
gen=$root/gen-$threads-threads
if wanted build; then
    heading "Build"
    rm -rf "$root"
    mkdir "$root"
    quiet nightjar-build --input "$base" --output "$gen" "${BUILD_OPTIONS[@]}" --threads "$threads"
    report "$gen" >"$out/build.json"
    nightjar info --json "$gen" >"$out/info.json"
    build_table "$gen"
    printf '\n| stage | wall s | CPU s |\n|---|---:|---:|\n'
    number='\([0-9.]*\)'
    sed -n "s/^    \"\([a-z]*\)\": {\"wall_s\": $number, \"cpu_s\": $number,.*/| \1 | \2 | \3 |/p" \
        "$gen/build-report.json"
    echo
    for name in nodes_per_block mean_degree block_mate_share trimmed_edges repaired_nodes; do
        echo "- $name $(field "$name" "$out/info.json")"
    done
fi
# --- ways to build the graph -------------------------------------------------------------------

# graph_build NAME INPUT ARGUMENT...: builds, keeps the generation in scratch, prints a JSON line
graph_build() {
    local name=$1 input=$2 other=$out/scratch/$1 stage
    shift 2
    rm -rf "$other"
    quiet nightjar-build --input "$input" --output "$other" "${BUILD_OPTIONS[@]}" \
        --threads "$threads" "$@"
    stage=$(grep '"graph": {"wall_s"' "$other/build-report.json" | field cpu_s)
    nightjar info --json "$other" >"$work/info"
    printf '{"name":"%s","wall_s":%s,"cpu_s":%s,"graph_cpu_s":%s,"rate":%s,"graph_rate":%s,"rss":%s}\n' \
        "$name" "$(grep '"total"' "$other/build-report.json" | field wall_s)" \
        "$(grep '"total"' "$other/build-report.json" | field cpu_s)" "$stage" \
        "$(field points_per_second_core "$other/build-report.json")" \
        "$(calc %.0f "$(field vector_count "$work/info") / $stage")" \
        "$(grep '"total"' "$other/build-report.json" | field peak_rss_bytes)" |
        tee -a "$out/graphs.json"
}
readonly GRAPH_COLUMNS=('wall_s=wall_s:%.1f' 'CPU_s=cpu_s:%.1f' 'points/s/core=rate:%.0f'
    'graph_CPU_s=graph_cpu_s:%.1f' 'graph_points/s/core=graph_rate:%.0f'
    'peak_RSS_MiB=rss*9.5367431640625e-7:%.0f')

# Alternately, so that a change of the machine's speed meets all.
if wanted graphs; then
    heading "Graphs by --graph, two builds each in turn"
    : >"$out/graphs.json"
    for turn in 1 2; do
        for kind in pipnn vamana; do
            graph_build "$kind" "$base" --graph "$kind" >"$work/graph-$kind-$turn"
        done
    done
    for kind in pipnn vamana; do
        echo "$kind:"
        echo
        cat "$work/graph-$kind-1" "$work/graph-$kind-2" | table "${GRAPH_COLUMNS[@]}"
        echo
        bench graph-points "\"graph\":\"$kind\"" --index "$out/scratch/$kind" --memory codes \
            --threads "$threads" --queries "$query" --groundtruth "$truth" -k 10 --search-list 150 \
            --search-ratio 1.03,1.045,1.0625,1.09,1.12 --beam-width 1 --concurrency 32 \
            --duration 0.1 | table 'ratio=search_ratio:%.4f' 'recall@10=recall:%.4f' \
            'reads/query=reads_per_query:%.2f'
        echo
        rm -rf "$out/scratch/$kind"
    done
fi

if wanted faiss; then
    heading "Faiss HNSW (M 32, efConstruction 100, f32) and nightjar-build, two builds each in turn"
    : >"$out/graphs.json"
    /usr/bin/python3 -c 'import faiss' 2>>"$log" || die "no Faiss: apt-get install python3-faiss"
    for turn in 1 2; do
        /usr/bin/python3 "$here/faiss-hnsw.py" "$base" "$query" "$truth" "$threads" \
            >"$work/faiss-$turn" 2>>"$log" || die "failed: faiss-hnsw.py"
        graph_build faiss-beside "$base" >"$work/beside-$turn"
    done
    cat "$work/faiss-1" "$work/faiss-2" | tee "$out/faiss.json" |
        table 'CPU_s=cpu_s:%.1f' 'points/s/core=points_per_second_core:%.0f' 'ef=ef:%d' \
            'recall@10=recall:%.4f' 'QPS=qps:%.0f'
    echo
    cat "$work/beside-1" "$work/beside-2" | table "${GRAPH_COLUMNS[@]}"
    echo
    bench faiss-points '"part":"faiss"' --index "$out/scratch/faiss-beside" --memory 1T \
        --threads "$threads" --queries "$query" --groundtruth "$truth" -k 10 \
        --search-list "$LISTS" --concurrency "$threads" --duration 1 |
        table 'L=search_list:%d' 'recall@10=recall:%.4f' 'QPS=qps:%.0f'
    rm -rf "$out/scratch/faiss-beside"
fi

if wanted dims; then
    heading "Builds of made-up f32 vectors, by dimension"
    : >"$out/graphs.json"
    for shape in ${SHAPES:-$(default "96:1000000 1024:100000" "96:20000 1024:5000")}; do
        input=$out/scratch/base.fbin
        quiet nightjar generate --output "$input" --count "${shape#*:}" --dim "${shape%:*}" \
            --type f32 --seed 1
        echo "${shape%:*} dimensions, ${shape#*:} vectors:"
        echo
        for kind in pipnn vamana; do
            graph_build "$kind" "$input" --graph "$kind" >"$work/graph-$kind"
            rm -rf "$out/scratch/$kind"
        done
        cat "$work/graph-pipnn" "$work/graph-vamana" | table "${GRAPH_COLUMNS[@]}"
        echo
    done
fi

# --- sharded builds ----------------------------------------------------------------------------

# shard_build NAME ARGUMENT...: builds and measures; one JSON line to OUT_DIR/shards.json and stdout
shard_build() {
    local name=$1 other=$out/scratch/$1 r list
    shift
    quiet nightjar-build --input "$base" --output "$other" "${BUILD_OPTIONS[@]}" \
        --threads "$threads" "$@"
    nightjar info --json "$other" >"$work/info"
    r=$other/build-report.json
    {
        printf '{"name":"%s","budget":%s,"shards":%s,"replication":%s,' "$name" "${budget:-0}" \
            "$(field shard_count "$work/info")" "$(field replication "$r")"
        printf '"wall_s":%s,"cpu_s":%s,"rss":%s' "$(grep '"total"' "$r" | field wall_s)" \
            "$(grep '"total"' "$r" | field cpu_s)" "$(grep '"total"' "$r" | field peak_rss_bytes)"
        for list in 20 30 40 60 100; do
            bench shard-points "\"name\":\"$name\"" --index "$other" --memory codes \
                --threads "$threads" --queries "$query" --groundtruth "$truth" -k 10 \
                --search-list "$list" --beam-width 1 --concurrency 32 >"$work/point"
            printf ',"recall%d":%s,"reads%d":%s' "$list" "$(field recall "$work/point")" "$list" \
                "$(field reads_per_query "$work/point")"
        done
        echo '}'
    } | tee -a "$out/shards.json"
    rm -rf "$other"
}
readonly SHARD_COLUMNS=('shards=shards:%d' 'replication=replication:%.2f'
    'budget_MiB=budget*9.5367431640625e-7:%.0f' 'peak_RSS_MiB=rss*9.5367431640625e-7:%.0f'
    'wall_s=wall_s:%.1f' 'CPU_s=cpu_s:%.1f' 'L_20=recall20:%.4f' 'reads=reads20:%.1f'
    'L_30=recall30:%.4f' 'reads=reads30:%.1f' 'L_40=recall40:%.4f' 'reads=reads40:%.1f'
    'L_60=recall60:%.4f' 'reads=reads60:%.1f' 'L_100=recall100:%.4f' 'reads=reads100:%.1f')

if wanted shards; then
    heading "Sharded builds, by the budget that asks for so many (recall@10; 32 clients, W = 1)"
    for shards in 1 4 8 16; do
        budget=$(nightjar-build --plan --json --input "$base" "${BUILD_OPTIONS[@]}" \
            --threads "$threads" --shards "$shards" | field memory_bytes)
        shard_build "budget-$shards" --memory "$budget"
    done | table "${SHARD_COLUMNS[@]}"
fi

if wanted replication; then
    heading "Eight shards, by mean replication (recall@10; 32 clients, W = 1)"
    budget=0
    for replication in 1.0 1.2 1.5 2.0; do
        shard_build "replication-$replication" --shards 8 --replication "$replication"
    done | table "${SHARD_COLUMNS[@]}"
fi

# Seconds of each stage at doubling sizes, and the exponent e of seconds ~ n^e from first to last.
if wanted scaling; then
    heading "CPU seconds by size (made-up u8 vectors of 128 dimensions, one shard)"
    sizes=${SIZES:-$(default "250000 500000 1000000 2000000" "25000 50000")}
    : >"$work/scaling"
    for rows in $sizes; do
        quiet nightjar generate --output "$out/scratch/base.u8bin" --count "$rows" --dim 128 \
            --type u8 --seed 1
        quiet nightjar-build --input "$out/scratch/base.u8bin" --output "$out/scratch/scaling" \
            "${BUILD_OPTIONS[@]}" --threads "$threads" --shards 1
        awk -v rows="$rows" 'match($0, /^    "[a-z]+": \{"wall_s"/) || /"total"/ {
            split($0, part, "\"")
            cpu = $0
            sub(/.*"cpu_s": /, "", cpu)
            sub(/,.*/, "", cpu)
            print rows, part[2], cpu
        }' "$out/scratch/scaling/build-report.json" >>"$work/scaling"
        rm -rf "$out/scratch/scaling" "$out/scratch/base.u8bin"
    done
    awk -v sizes="$sizes" '{ cpu[$2, $1] = $3; if (!($2 in seen)) { seen[$2] = 1; name[++names] = $2 } }
        END {
            n = split(sizes, size, " ")
            head = "| stage |"; line = "|---|"
            for (i = 1; i <= n; i++) { head = head " " size[i] " |"; line = line "---:|" }
            print head " exponent |\n" line "---:|"
            for (s = 1; s <= names; s++) {
                row = "| " name[s] " |"
                for (i = 1; i <= n; i++) row = row sprintf(" %.2f |", cpu[name[s], size[i]])
                first = cpu[name[s], size[1]]; last = cpu[name[s], size[n]]
                e = first > 0.05 ? sprintf("%.2f", log(last / first) / log(size[n] / size[1])) : "-"
                print row " " e " |"
            }
        }' "$work/scaling"
fi

# --- from start to first answer, and from one generation to the next -----------------------------

now_s() {
    date +%s.%N
}
# first_answer MEMORY: starts a daemon, and waits for an answer; its time in $took
first_answer() {
    local from
    from=$(now_s)
    nightjard --root "$work/start" --socket "$work/socket" --memory "$1" --threads "$threads" \
        2>>"$log" &
    daemon=$!
    until nightjar search --socket "$work/socket" --queries "$query" --limit 1 -k 10 \
        --search-list 40 >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || die "the daemon ended: $(tail -n 1 "$log")"
        sleep 0.01
    done
    took=$(calc %.3f "$(now_s) - $from")
}
# swap_to NAME: from the publication until it is live; its time in $took
swap_to() {
    local from
    from=$(now_s)
    nightjar publish --root "$work/start" "$1" >>"$log"
    nightjar reload --socket "$work/socket" >>"$log"
    took=$(calc %.3f "$(now_s) - $from")
}
start_times() {
    local generation=${GENERATION:-$gen} memory=${MEMORY:-0} cold='warm only' first again idle busy
    mkdir "$work/start"
    # Links: directories of their own, and thus two generations, of the same files.
    cp -al "$generation" "$work/start/a" 2>/dev/null || cp -a "$generation" "$work/start/a"
    cp -al "$work/start/a" "$work/start/b"
    nightjar publish --root "$work/start" a >>"$log"
    if sync && echo 3 2>/dev/null >/proc/sys/vm/drop_caches; then
        cold='page cache dropped'
    fi
    # Each of two generations has half.
    first_answer $((memory * 2))
    first=$took
    kill -TERM "$daemon"
    wait "$daemon" || die "the daemon ended with status $?"
    first_answer $((memory * 2))
    again=$took
    swap_to b
    idle=$took
    while nightjar search --socket "$work/socket" --queries "$query" -k 10 --search-list 60 \
        --search-ratio 1.06 --output "$work/hits.ibin" >>"$log" && [[ ! -e $work/swapped ]]; do :; done &
    local load=$!
    sleep 1
    swap_to a
    busy=$took
    touch "$work/swapped"
    wait "$load" || die "the load failed"
    kill -TERM "$daemon"
    wait "$daemon" || die "the daemon ended with status $?"
    daemon=
    printf '{"memory":%s,"cold":"%s","first_s":%.3f,"again_s":%.3f,"swap_idle_s":%.3f,"swap_loaded_s":%.3f}\n' \
        "$memory" "$cold" "$first" "$again" "$idle" "$busy" >"$out/start.json"
    printf '| to the first answer s (%s) | again s | publish to live, idle s | under load s |\n' "$cold"
    printf '|---:|---:|---:|---:|\n| %.2f | %.2f | %.2f | %.2f |\n' "$first" "$again" "$idle" "$busy"
}

# What targets come to, on queries that the index has not seen.
recall_targets() {
    local k target
    for k in 1 10 100; do
        for target in 0.8 0.9 0.95 0.98 0.99; do
            bench recall "\"target\":$target" --index "$gen" --memory codes --threads "$threads" \
                --queries "$query" --groundtruth "$truth" -k "$k" --recall "$target" \
                --beam-width 1 --concurrency 16 --duration 0
        done
    done
}

if wanted recall; then
    [[ -f $gen/manifest.json ]] || die "$gen: nothing built yet: run with PARTS containing build"
    heading "Recall targets"
    recall_targets | table 'k=k:%d' 'target=target:%.2f' 'L=search_list:%d' \
        'ratio=search_ratio:%.3f' 'recall=recall:%.4f' 'reads=reads_per_query:%.1f'
fi

if wanted start; then
    [[ -f ${GENERATION:-$gen}/manifest.json ]] || die "${GENERATION:-$gen}: no generation"
    heading "Start and swap"
    start_times
fi

for part in local socket device memory resident loaded metrics threads build; do
    if wanted $part; then
        needs_generation=1
    fi
done
if [[ -z ${needs_generation-} ]]; then
    printf '\nDone in %d s; JSON lines in %s.\n' "$SECONDS" "$out"
    exit 0
fi
[[ -f $gen/build-report.json ]] || die "$gen: nothing built yet: run with PARTS containing build"
nightjar publish --root "$root" "$(basename "$gen")" >>"$log"
build_wall_s=$(grep '"total"' "$gen/build-report.json" | field wall_s)

# --- search in process, and through the socket -------------------------------------------------

search_ladders() { # FILE TARGET...: tables for one client, the best concurrency and stop ratios
    local file=$1 best=8 best_qps=0 c qps
    shift
    local all=("$@" --queries "$query" --groundtruth "$truth" -k 10 --duration "$duration")
    : >"$out/$file.json"
    heading "Search $file, one client, no cached block (first $single_queries queries)"
    bench "$file" '"part":"single"' "$@" --queries "$few" --groundtruth "$few_truth" -k 10 \
        --duration "$duration" --search-list "$LISTS" --concurrency 1 | table "${SEARCH_COLUMNS[@]}"
    heading "Search $file, L = 40, by clients"
    for c in 8 16 32 64; do
        bench "$file" '"part":"clients"' "${all[@]}" --search-list 40 --concurrency "$c" \
            >"$work/point"
        cat "$work/point" >>"$work/clients-$file"
        qps=$(field qps "$work/point")
        if awk -v a="$qps" -v b="$best_qps" 'BEGIN { exit !(a > b) }'; then
            best=$c best_qps=$qps
        fi
    done
    table 'clients=concurrency:%d' "${POINT_COLUMNS[@]}" <"$work/clients-$file"
    heading "Search $file, $best clients, no cached block"
    bench "$file" '"part":"best"' "${all[@]}" --search-list "$LISTS" --concurrency "$best" |
        table "${SEARCH_COLUMNS[@]}"
    heading "Search $file, $best clients, early stop: --search-ratio at L = 150"
    bench "$file" '"part":"ratio"' "${all[@]}" --search-list 150 --search-ratio "$RATIOS" \
        --concurrency "$best" | table 'ratio=search_ratio:%.3f' "${POINT_COLUMNS[@]}"
}

if wanted local; then
    search_ladders local --index "$gen" --memory codes --threads "$threads"
fi

if wanted socket; then
    nightjard --root "$root" --socket "$work/socket" --memory 0 --threads "$threads" 2>>"$log" &
    daemon=$!
    until nightjar stats --socket "$work/socket" >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || die "the daemon ended: $(tail -n 1 "$log")"
        sleep 0.1
    done
    search_ladders socket --socket "$work/socket"
    kill -TERM "$daemon"
    wait "$daemon" || die "the daemon ended with status $?"
    daemon=
fi

# --- device ------------------------------------------------------------------------------------

# fio_iops DEPTH: random reads of one block on the index's own file, DEPTH in flight in all
fio_iops() {
    fio --name=nightjar --filename="$gen/nodes.blk" --readonly --rw=randread --bs="$block_bytes" \
        --direct=1 --ioengine=io_uring --numjobs="$threads" --iodepth=$(($1 / threads)) \
        --group_reporting --time_based --runtime="$fio_s" --output-format=terse \
        --terse-version=3 2>>"$log" | tail -n 1 | cut -d ';' -f 8
}

# With W = 1 the queries in flight are the reads in flight, so both sides ask for the same depth.
device() {
    local depth round iops
    for depth in $depths; do
        rm -f "$work/rounds"
        for ((round = 0; round < rounds; round++)); do
            iops=$(fio_iops "$depth")
            bench device-runs "\"depth\":$depth,\"fio\":$iops" --index "$gen" --memory codes \
                --threads "$threads" --queries "$query" --groundtruth "$truth" --search-list 40 \
                --beam-width 1 --concurrency "$depth" --duration "$duration" >"$work/point"
            echo "$iops $(field reads_per_second "$work/point")" >>"$work/rounds"
        done
        awk -v depth="$depth" '{ fio += $1; ours += $2 }
            END { printf "{\"depth\":%d,\"fio\":%.0f,\"nightjar\":%.0f,\"share\":%.4f}\n",
                         depth, fio / NR, ours / NR, ours / fio }' "$work/rounds"
    done
}

if wanted device; then
    block_bytes=$(nightjar info --json "$gen" | field block_bytes)
    fio_s=$(default 3 1)
    depths=$(default "8 16 32 64 128" "16 64")
    rounds=$(default 3 2)
    heading "Device: reads/s beside fio's at the same queue depth, alternating (L = 40, W = 1)"
    if ! command -v fio >/dev/null; then
        echo "(skipped: fio is not installed)"
    elif [[ ! $(fio_iops "$threads") =~ ^[1-9][0-9.]*$ ]]; then
        echo "(skipped: fio cannot read nodes.blk with O_DIRECT through io_uring here)"
    else
        rm -f "$out/device-runs.json"
        device | tee "$out/device.json" | table 'depth=depth:%d' 'fio_reads/s=fio:%.0f' \
            'nightjar_reads/s=nightjar:%.0f' 'share=share:%.3f'
    fi
fi

# --- memory ------------------------------------------------------------------------------------

# at_recall LEAST FILE MEMBERS ARGUMENT...: measures with the first of a ladder of settings, cheapest
# first, that reaches the recall; one JSON line. The ladder is of stop ratios at L = 100 where blocks
# are read, and of L where all are in memory.
at_recall() {
    local least=$1 file=$2 members=$3 setting settings
    shift 3
    nightjar bench "$@" --search-list 10 --duration 0 --json 2>>"$log" >"$work/try"
    if grep -q '"resident":true' "$work/try"; then
        settings=$(printf '%s:0 ' 15 18 20 22 25 28 30 35 40 45 50 60 70 80 100 120 150 200)
    else
        settings=$(printf '100:%s ' 1 1.01 1.02 1.025 1.03 1.04 1.05 1.055 1.06 1.065 1.07 1.08 \
            1.09 1.1 1.12 1.14 1.16 1.2 1.25 1.3)
    fi
    for setting in $settings; do
        nightjar bench "$@" --search-list "${setting%:*}" --search-ratio "${setting#*:}" \
            --duration 0 --json 2>>"$log" >"$work/try" || die "failed: nightjar bench $*"
        if awk -v r="$(field recall "$work/try")" -v least="$least" 'BEGIN { exit !(r >= least) }'; then
            break
        fi
    done
    bench "$file" "$members" "$@" --search-list "${setting%:*}" --search-ratio "${setting#*:}" \
        --duration "$duration"
}
# memory_run BYTES QUERIES TRUTH CLIENTS: one line
memory_run() {
    at_recall 0.95 memory-runs "\"memory_bytes\":$1" --index "$gen" --memory "$1" \
        --threads "$threads" --queries "$2" --groundtruth "$3" -k 10 --concurrency "$4"
}
# memory_point BYTES: a budget asked by one client and by 32; one JSON line
memory_point() {
    local one name
    memory_run "$1" "$few" "$few_truth" 1 >"$work/one"
    memory_run "$1" "$query" "$truth" 32 >"$work/point"
    one=
    for name in recall reads_per_query mean_us; do
        one+=",\"one_$name\":$(field "$name" "$work/one")"
    done
    sed "s/^{/{\"memory_mib\":$(calc %.1f "$1 / 1048576")$one,/" "$work/point"
}

# The steps at which the index holds something new, and between the last two, where blocks fill the
# room, some more.
if wanted memory; then
    heading "Memory, from codes alone to everything (recall@10 at least 0.95; one client and 32)"
    rm -f "$out/memory-runs.json"
    steps=$(nightjar info --json "$gen" | grep -o '"budget":[0-9]*' | cut -d : -f 2)
    last=$(tail -n 1 <<<"$steps")
    before=$(tail -n 2 <<<"$steps" | head -n 1)
    {
        echo "$steps"
        for percent in 12 25 50 75; do
            echo $((before + (last - before) * percent / 100))
        done
    } | sort -n | while read -r memory; do
        memory_point "$memory"
    done | tee "$out/memory.json" | table 'memory_MiB=memory_mib:%.1f' \
        'bytes_a_code=code_bytes:%d' 'lists_MiB=lists_bytes*9.5367431640625e-7:%.1f' \
        'cache_MiB=cache_bytes*9.5367431640625e-7:%.1f' \
        'mean_ms,_1_client=one_mean_us*0.001:%.3f' 'reads=one_reads_per_query:%.1f' \
        'recall@10=one_recall:%.4f' 'QPS,_32_clients=qps:%.0f' 'reads=reads_per_query:%.1f' \
        'cached=cache_hits_per_query:%.1f' 'recall@10=recall:%.4f' \
        'CPU_µs/query=cpu_us_per_query:%.0f'
fi

# --- everything in memory ----------------------------------------------------------------------

if wanted resident; then
    heading "Everything in memory, one thread and $threads (8 clients a thread)"
    for count in 1 $threads; do
        bench resident "\"part\":\"resident\"" --index "$gen" --memory 1T --threads "$count" \
            --queries "$query" --groundtruth "$truth" -k 10 --search-list 15,20,25,30,40,60,80,120 \
            --concurrency $((8 * count)) --duration "$duration"
        ((count < threads)) || break
    done | table 'threads=threads:%d' "${SEARCH_COLUMNS[@]}"
fi

# --- latency under load ------------------------------------------------------------------------

# Queries that arrive at random at 70 % of what the index can do.
if wanted loaded; then
    heading "Latency at 70 % of the best QPS (arrivals at random, recall@10 at least 0.95)"
    setting=(--index "$gen" --threads "$threads" --queries "$query" --groundtruth "$truth" -k 10)
    for memory in codes 1T; do
        at_recall 0.95 loaded-best '"part":"best"' "${setting[@]}" --memory "$memory" \
            --concurrency 32 >"$work/point"
        bench loaded "\"best\":$(field qps "$work/point")" "${setting[@]}" --memory "$memory" \
            --concurrency 1024 --rate "$(calc %.0f "0.7 * $(field qps "$work/point")")" \
            --search-list "$(field search_list "$work/point")" \
            --search-ratio "$(field search_ratio "$work/point")" --duration "$duration"
    done | tee "$work/loaded" | table 'best_QPS=best:%.0f' 'ratio=search_ratio:%.3f' \
        "${SEARCH_COLUMNS[@]}"
fi

# --- plots -------------------------------------------------------------------------------------

ladder_points() { # FILE PREFIX Y: of the tables of search_ladders over L and over ratios
    points "$1" single "$2%d client" recall "$3"
    points "$1" best "$2%d clients" recall "$3"
    points "$1" ratio "$2%d clients, early stop" recall "$3"
}

ladders=()
for part in local socket; do
    if wanted $part; then
        ladders+=("$part")
    fi
done
if ((${#ladders[@]} > 0)) || wanted memory; then
    heading "Plots"
fi
if ((${#ladders[@]} > 0)); then
    for part in "${ladders[@]}"; do
        ladder_points "$part" "$part, " qps
    done | plot recall-qps "Queries a second by recall" "recall@10" "queries a second" 1
    # The socket changes nothing of what is read.
    ladder_points "${ladders[0]}" "" reads_per_query |
        plot recall-reads "Reads by recall" "recall@10" "reads a query"
fi
if wanted memory; then
    {
        points memory "" "1 client" memory_mib one_reads_per_query
        points memory "" "%d clients" memory_mib reads_per_query
    } | plot memory-reads "Reads by memory at recall@10 0.95" "memory tier, MiB" "reads a query"
fi

# --- f32, cosine, ip ---------------------------------------------------------------------------

metric_run() { # METRIC ROWS ESTIMATE_S
    local metric=$1 rows=$2 estimate=$3 other=$out/scratch/f32-$1 mine=$truth
    heading "f32, $metric, $rows vectors (16 clients, no cached block)"
    fits "$estimate" "the f32 $metric build" || return 0
    quiet nightjar convert --input "$base" --output "$out/scratch/base.fbin" --limit "$rows"
    if [[ $metric != l2 || $rows != "$vectors" ]]; then
        mine=$out/scratch/truth.bin
        quiet nightjar groundtruth --input "$out/scratch/base.fbin" --threads "$threads" \
            --queries "$out/scratch/query.fbin" --output "$mine" -k 100 --metric "$metric"
    fi
    quiet nightjar-build --input "$out/scratch/base.fbin" --output "$other" --metric "$metric" \
        "${BUILD_OPTIONS[@]}" --threads "$threads"
    report "$other" >>"$out/metrics-build.json"
    build_table "$other"
    echo
    bench metrics "\"metric\":\"$metric\"" --index "$other" --memory codes --threads "$threads" \
        --queries "$out/scratch/query.fbin" --groundtruth "$mine" --search-list "$LISTS" \
        --concurrency 16 --duration "$duration" | table "${SEARCH_COLUMNS[@]}"
    rm -rf "$other" "$out/scratch/base.fbin"
}

if wanted metrics; then
    vectors=$(nightjar info --json "$gen" | field vector_count)
    rows=$((vectors < metric_rows ? vectors : metric_rows))
    # f32 costs about 1.7 times u8's build, and exact neighbours a tenth of that.
    full_s=$(calc %.0f "$build_wall_s * 1.9 + 30")
    part_s=$(calc %.0f "($build_wall_s * 1.9 + 30) * $rows / $vectors")
    quiet nightjar convert --input "$query" --output "$out/scratch/query.fbin"
    rm -f "$out/metrics.json" "$out/metrics-build.json"
    if [[ -n $quick ]]; then
        metric_run l2 "$rows" "$part_s"
    else
        metric_run l2 "$vectors" "$full_s"
    fi
    metric_run cosine "$rows" "$part_s"
    metric_run ip "$rows" "$part_s"
fi

# --- one thread, same bytes --------------------------------------------------------------------

if wanted threads; then
    heading "The same build on one thread"
    if fits "$(calc %.0f "$build_wall_s * $threads * 1.1")" "the one-thread build"; then
        rm -rf "$root/gen-1-thread"
        quiet nightjar-build --input "$base" --output "$root/gen-1-thread" \
            "${BUILD_OPTIONS[@]}" --threads 1
        report "$root/gen-1-thread" >>"$out/build.json"
        build_table "$gen" "$root/gen-1-thread"
        one=$(nightjar verify --digest "$root/gen-1-thread")
        many=$(nightjar verify --digest "$gen")
        if [[ $one == "$many" ]]; then
            printf '\nidentical: %s\n' "$one"
        else
            printf '\nDIFFERENT: %s with one thread, %s with %d\n' "$one" "$many" "$threads"
            exit 1
        fi
        rm -rf "$root/gen-1-thread"
    fi
fi

printf '\nDone in %d s; JSON lines in %s.\n' "$SECONDS" "$out"
