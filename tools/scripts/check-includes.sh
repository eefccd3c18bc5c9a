#!/usr/bin/env bash
# Checks the layering that the compiler cannot: who includes whom, and that one file owns each
# system interface. Prints one line a finding; fails when there is one.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

findings=0
finding() {
    echo "check-includes: $*" >&2
    findings=$((findings + 1))
}

# tools -> builder | query -> layout -> common; builder and query never meet.
allowed_of() {
    case $1 in
    common) echo "common" ;;
    layout) echo "layout common" ;;
    builder) echo "builder layout common" ;;
    query) echo "query layout common" ;;
    tools) echo "tools builder query layout common" ;;
    tests) echo "tests tools builder query layout common" ;;
    esac
}

check_directions() {
    local folder allowed file line text header
    for folder in common layout builder query tools tests; do
        [[ -d $folder ]] || continue
        allowed=" $(allowed_of "$folder") "
        while IFS=: read -r file line text; do
            header=${text#*\"}
            header=${header%%\"*}
            if [[ $header != */* ]]; then
                finding "$file:$line: \"$header\": write includes from the root: \"folder/$header\""
            elif [[ $header != *.h ]]; then
                finding "$file:$line: \"$header\": only headers are included"
            elif [[ $allowed != *" ${header%%/*} "* ]]; then
                finding "$file:$line: $folder/ may not include \"$header\": want one of$allowed"
            elif [[ ! -f $header ]]; then
                finding "$file:$line: \"$header\": no such file"
            fi
        done < <(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"' "$folder"/*.[ch] /dev/null)
    done
}

# only REGEX_OF_HEADER REGEX_OF_FILES: no other file includes it.
only() {
    local file
    while IFS= read -r file; do
        [[ $file =~ ^($2)$ ]] || finding "$file includes <$1>: only $2 may"
    done < <(grep -lE "^[[:space:]]*#[[:space:]]*include[[:space:]]+<$1>" ./*/*.[ch] | sed 's|^\./||')
}

check_owners() {
    only 'liburing\.h' 'query/block_io_uring\.c'
    # One writer and reader of JSON on disk, three of JSON on the wire, one reader of statistics.
    only 'cjson/cJSON\.h' \
        'layout/manifest_json\.c|query/(stats_json|http_json|http_search)\.c|tools/top\.c|tests/.*\.c'
    only 'microhttpd\.h' 'query/http\.c'
    only '(hwloc(/.*)?|numa|numaif)\.h' 'common/topology\.c'
    only 'linux/mempolicy\.h' 'common/topology\.c|tests/test_topology\.c'
    # Instruction sets: files named for one, and the headers that only those include.
    only '(immintrin|x86intrin|[a-z]*mmintrin)\.h' \
        '[a-z]+/[a-z0-9_]*_(avx2|avx512|vnni)\.c|[a-z]+/[a-z0-9_]*_internal\.h'
    local file
    while IFS= read -r file; do
        finding "$file: instruction sets are chosen by file name, not by a pragma or attribute"
    done < <(grep -lE 'pragma[[:space:]]+(GCC|clang)[[:space:]]+target|__attribute__\(\(target' ./*/*.[ch])
}

check_names() {
    local name
    while IFS= read -r name; do
        finding "$name: file names are unique in the tree"
    done < <(printf '%s\n' ./*/*.[ch] ./*/*.sh ./*/*/*.sh | sed 's|.*/||' | grep -v '^\*' | sort | uniq -d)
}

check_directions
check_owners
check_names
if ((findings > 0)); then
    exit 1
fi
