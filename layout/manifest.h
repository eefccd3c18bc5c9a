/*
 * manifest.h - manifest.json: what a generation is. Written last; its presence makes a directory a
 * generation. Holds nothing that depends on clock, host or thread count.
 */
#ifndef NIGHTJAR_LAYOUT_MANIFEST_H
#define NIGHTJAR_LAYOUT_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/codec.h"
#include "common/compiler.h"
#include "common/element.h"
#include "common/error.h"
#include "layout/block.h"

enum {
    MANIFEST_FORMAT_VERSION = 5,
    MANIFEST_BYTES_MAX = 1 << 20, /* longer text is refused before it is parsed */
    MANIFEST_SHARDS_MAX = 1000,
    MANIFEST_REPLICATION_MAX = 4,
    MANIFEST_CURVES_MAX = 6,
    MANIFEST_POINTS_MAX = 32,
    MANIFEST_SEARCH_LIST_MAX = 1024,
    MANIFEST_RATIO_MAX = 100,
    MANIFEST_LID_MAX = 1000000,
};

struct digest128 {
    uint64_t low, high;
};

/* The data files of a generation, in manifest order. */
enum generation_file {
    GENERATION_NODES,      /* nodes.blk */
    GENERATION_CODES,      /* codes.bin */
    GENERATION_CODEC,      /* codec.bin */
    GENERATION_NAVIGATION, /* navigation.bin */
    GENERATION_HOT,        /* hot.bin */
    GENERATION_SAMPLE,     /* sample.bin */
    GENERATION_ATTRIBUTES, /* attributes.bin; only where vectors have attributes */
    GENERATION_KEYS,       /* keys.bin */
    GENERATION_FILE_COUNT,
};
extern const char *const generation_file_names[GENERATION_FILE_COUNT];

/* The file may be missing: then its length is 0, which it never has otherwise. */
ALWAYS_INLINE bool generation_file_optional(enum generation_file file)
{
    return file == GENERATION_ATTRIBUTES;
}
#define MANIFEST_FILE_NAME "manifest.json"

struct manifest_file {
    uint64_t bytes;
    struct digest128 xxh3;
};

/* What a search with this list and stop ratio found of all queries of a curve. Counts, so that the
 * same searches make the same bytes. */
struct manifest_point {
    uint32_t search_list;
    double search_ratio; /* 0: none */
    uint64_t hits;       /* true neighbours found */
    uint64_t squares;    /* of each query's hits: how much queries differ */
    uint64_t reads;      /* blocks a search asks for, wherever it finds them */
};

/* Recall for reads at some k: hits and reads both ascend from point to point. */
struct manifest_curve {
    bool tuned;       /* of queries that the builder was given; else those of sample.bin */
    uint32_t k;       /* hits asked for */
    uint32_t queries; /* that each point was measured with */
    uint32_t point_count;
    struct manifest_point points[MANIFEST_POINTS_MAX];
};

struct manifest {
    uint32_t format_version;
    struct digest128 generation_id;
    struct digest128 input_digest; /* of the vectors (keys, attributes), as read: FORMAT.md */
    char tool_version[32];

    uint64_t vector_count;
    uint32_t dim;
    enum element_type type;       /* of vectors as they are stored */
    enum element_type query_type; /* of queries, and of the input: element_may_store() as `type` */
    enum metric metric;
    double norm_max; /* largest |x|; METRIC_IP's search uses it, others informative */

    struct block_geometry geometry;
    uint64_t block_count;

    enum codec_kind codec_kind;  /* never CODEC_AUTO */
    enum codec_kind codec_asked; /* CODEC_AUTO: the builder chose; CODEC_NONE: it was asked for */
    uint32_t code_bytes;

    /* build parameters */
    uint32_t degree;     /* R */
    uint32_t build_list; /* L of vamana; 0: pipnn, which has none */
    double alpha;
    uint64_t seed;
    uint32_t block_bytes_asked; /* 0: the builder chose */
    double navigation_share;    /* of the vectors; 0..1 */
    uint32_t shard_count;       /* 1..MANIFEST_SHARDS_MAX: shards the graph was built in */
    double replication;         /* cap on the mean number of shards a row is in:
                                 * 1..MANIFEST_REPLICATION_MAX; 1 with one shard */

    /* facts about the graph and the packing */
    double mean_degree;         /* out-edges a node before packing, block-mates included */
    double block_mate_share;    /* share of block-mates that are graph neighbours (out-edges) */
    uint64_t trimmed_edges;     /* dropped so that blocks fit */
    uint64_t repaired_nodes;    /* given an in-edge because nothing reached them */
    uint64_t duplicate_vectors; /* rows equal to an earlier row */
    uint64_t borrowed_rows;     /* further shards a row was built in, summed; 0 with one shard */
    uint32_t entry_node;        /* every other is reachable from it; below node_limit */
    uint32_t navigation_count;  /* nodes in navigation.bin */
    uint64_t hot_count;         /* nodes in hot.bin */
    uint32_t sample_count;      /* queries in sample.bin */
    uint32_t sample_k;          /* neighbours of each of them */

    /* what a search finds; see docs/ARCHITECTURE.md, "Recall targets" */
    struct digest128 tune_digest; /* of the queries that curves were tuned to; 0: none were given */
    double lid;                   /* local intrinsic dimension at the sample; 0: not estimated */
    uint32_t curve_count;
    struct manifest_curve curves[MANIFEST_CURVES_MAX]; /* first those of the sample; k ascends */

    struct manifest_file files[GENERATION_FILE_COUNT];
};

/* Whether the builder was given queries to tune to. */
bool manifest_is_tuned(const struct manifest *manifest);

/* Id = XXH3-128 of input digest, shape, build parameters, seed and format version, in the byte
 * layout of FORMAT.md. Uses only fields that are known before the graph is built (none of the
 * geometry). */
struct digest128 manifest_generation_id(const struct manifest *manifest);

/* Names the first field that is out of range or contradicts another. */
NODISCARD enum status manifest_check(const struct manifest *manifest, struct error *err);

/* JSON out (malloc'd, NUL-terminated, caller frees; same manifest, same bytes) and in. The text
 * ends with a checksum of itself, so any flipped bit is found. Both check the manifest with
 * manifest_check(). In: an unknown format_version or required feature is STATUS_UNSUPPORTED naming
 * it; anything else wrong is STATUS_CORRUPT. *out is written only on success. */
NODISCARD enum status manifest_format(const struct manifest *manifest, char **json,
                                      struct error *err);
NODISCARD enum status manifest_parse(const char *json, size_t length, struct manifest *out,
                                     struct error *err);

#endif
