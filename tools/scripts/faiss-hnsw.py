#!/usr/bin/python3
"""Builds an HNSW graph with Faiss (Debian: python3-faiss) and measures it; one JSON line a point.

    faiss-hnsw.py BASE QUERIES TRUTH THREADS [M [EF_CONSTRUCTION]]

BASE and QUERIES are .u8bin, .i8bin or .fbin; TRUTH is a .bin of row numbers. Everything is in memory,
as f32. `bench.sh` runs it beside nightjar-build, for the same data on the same machine.
"""
import json
import sys
import time

import faiss
import numpy

TYPES = {"u8bin": numpy.uint8, "i8bin": numpy.int8, "fbin": numpy.float32}


def vectors(path):
    kind = TYPES[path.rsplit(".", 1)[1]]
    count, dim = numpy.fromfile(path, numpy.uint32, 2)
    values = numpy.memmap(path, kind, "r", 8, (int(count), int(dim)))
    return numpy.ascontiguousarray(values, numpy.float32)


def main():
    base, queries = vectors(sys.argv[1]), vectors(sys.argv[2])
    count, k = numpy.fromfile(sys.argv[3], numpy.uint32, 2)
    truth = numpy.memmap(sys.argv[3], numpy.uint32, "r", 8, (int(count), int(k)))[:, :10]
    threads = int(sys.argv[4])
    m = int(sys.argv[5]) if len(sys.argv) > 5 else 32
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(base.shape[1], m)
    index.hnsw.efConstruction = int(sys.argv[6]) if len(sys.argv) > 6 else 100
    wall, cpu = time.monotonic(), time.process_time()
    index.add(base)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    build = {"M": m, "efc": index.hnsw.efConstruction, "wall_s": wall, "cpu_s": cpu,
             "points_per_second_core": len(base) / cpu}
    for ef in 20, 40, 80, 160, 320:
        index.hnsw.efSearch = ef
        start = time.monotonic()
        found = index.search(queries, 10)[1]
        took = time.monotonic() - start
        hits = sum(len(numpy.intersect1d(a, b)) for a, b in zip(found, truth))
        print(json.dumps({**build, "ef": ef, "recall": hits / (10 * len(queries)),
                          "qps": len(queries) / took}), flush=True)


if __name__ == "__main__":
    main()
