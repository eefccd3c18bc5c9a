#!/usr/bin/env bash
# An index saved by hnswlib itself becomes the vectors and labels that went into it, deleted ones
# left out; and what is built of them finds them by their labels. Skipped where hnswlib's headers
# (Debian: libhnswlib-dev) or a C++ compiler are missing. Ends with `N passed, N failed`.
set -euo pipefail
export LC_ALL=C
# shellcheck source=tests/counts.sh
source "$(dirname "${BASH_SOURCE[0]}")/counts.sh"

bin=${NIGHTJAR_BUILD:?directory of the programs}
work=$(mktemp -d "${TMPDIR:-/tmp}/nightjar-e2e-hnswlib.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# Made up by ARGS: TYPE COUNT DIM. Writes index.bin and, of what is not deleted, base and keys as
# they are to come out: u32 count, u32 dim or 1, rows.
cat >make.cc <<'CODE'
#include <hnswlib/hnswlib.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

template <typename Element, typename Distance>
static void make(hnswlib::SpaceInterface<Distance> &space, uint32_t count, uint32_t dim)
{
    hnswlib::HierarchicalNSW<Distance> index(&space, count + 20, 6, 40);
    std::mt19937 random(7);
    std::vector<Element> row(dim), rows;
    std::vector<uint64_t> labels;
    for (uint32_t i = 0; i < count; i++) {
        for (auto &element : row)
            element = static_cast<Element>(random() % 200);
        uint64_t label = (uint64_t(1) << 40) + uint64_t(i) * 7919 % count;
        index.addPoint(row.data(), label);
        if (i % 13 == 5)
            index.markDelete(label);
        if (i % 13 == 5 && i % 2 != 0)
            continue;
        if (i % 13 == 5)
            index.unmarkDelete(label);
        rows.insert(rows.end(), row.begin(), row.end());
        labels.push_back(label);
    }
    index.saveIndex("index.bin");
    auto write = [&](const char *name, uint32_t width, const void *data, size_t bytes) {
        std::ofstream out(name, std::ios::binary);
        uint32_t header[2] = {uint32_t(labels.size()), width};
        out.write(reinterpret_cast<const char *>(header), sizeof(header));
        out.write(static_cast<const char *>(data), std::streamsize(bytes));
    };
    write("base", dim, rows.data(), rows.size() * sizeof(Element));
    write("keys", 1, labels.data(), labels.size() * sizeof(uint64_t));
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint32_t count = uint32_t(std::atoi(argv[2])), dim = uint32_t(std::atoi(argv[3]));
    if (std::string(argv[1]) == "u8") {
        hnswlib::L2SpaceI space(dim);
        make<uint8_t, int>(space, count, dim);
    } else {
        hnswlib::L2Space space(dim);
        make<float, float>(space, count, dim);
    }
}
CODE
if ! c++ -std=c++17 -O1 -w -pthread -o make make.cc 2>err; then
    echo "skipped: no hnswlib to compile with: $(head -n 1 err)"
    exit 77
fi

# How many elements are not deleted.
live() {
    echo $((($(stat -c %s keys) - 8) / 8))
}
# imported TYPE SUFFIX COUNT DIM
imported() {
    ./make "$1" "$3" "$4"
    if ! "$bin/nightjar" convert --from hnswlib --input index.bin --type "$1" --dim "$4" \
        --output "out.$2" --keys-output out.u64bin >out 2>err; then
        fail "$1: $(cat err)"
    elif ! cmp -s base "out.$2"; then
        fail "$1: other vectors than those that went in"
    elif ! cmp -s keys out.u64bin; then
        fail "$1: other keys than the labels that went in"
    elif ! grep -q "^$(live) vectors of $4 $1; $(($3 - $(live))) deleted" out; then
        fail "$1: said: $(cat out)"
    else
        pass
    fi
}
imported f32 fbin 3000 24
imported f32 fbin 1 3
imported u8 u8bin 2000 32

# The labels are what a search of the built index answers with.
if ! "$bin/nightjar-build" --input out.u8bin --keys out.u64bin --output gen --metric l2 \
    --degree 16 >out 2>err; then
    fail "build: $(cat err)"
else
    "$bin/nightjar" convert --input out.u8bin --output q.u8bin --offset 77 --limit 1
    key=$(od -An -tu8 -j $((8 + 77 * 8)) -N 8 keys | tr -d ' ')
    "$bin/nightjar" search --index gen --queries q.u8bin -k 1 --search-list 40 >out 2>err || fail "search: $(cat err)"
    if grep -qw -- "$key" out; then
        pass
    else
        fail "search: label $key is not in: $(head -c 300 out)"
    fi
fi
summary
