/*
 * shard_fixture.c - see shard_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/shard_fixture.h"

#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/memory.h"
#include "common/random.h"

#define MUST(call, err)                                                                            \
    do {                                                                                           \
        if ((call) != STATUS_OK)                                                                   \
            fail_msg("%s", (err).text);                                                            \
    } while (0)

enum { STREAM_OWNER = 101, STREAM_BORROWER };

static const struct work_piece partition_piece = {BUILD_STAGE_PARTITION, WORK_WHOLE};

uint64_t shard_fixture_key(uint32_t row)
{
    return row * 1000003ull + 7;
}

uint32_t shard_fixture_rows(const struct shard_fixture *fixture)
{
    return fixture->plan.starts[fixture->plan.shard_count];
}

uint32_t shard_fixture_owner(const struct shard_plan *plan, uint32_t position)
{
    uint32_t shard = 0;
    while (plan->starts[shard + 1] <= position)
        shard++;
    return shard;
}

struct shard_spec shard_fixture_spec(uint32_t count, uint32_t shard_count)
{
    return (struct shard_spec){
        .vectors = {.count = count,
                    .dim = 12,
                    .clusters = 8,
                    .type = ELEMENT_F32,
                    .metric = METRIC_L2,
                    .seed = 5},
        .shard_count = shard_count,
        .closure = 1.4,
        .degree = 12,
    };
}

/* ---- partition ---- */

/* While the partition is made, rows are in order of row. */
struct cut {
    const struct shard_spec *spec;
    struct vector_set rows;
    uint32_t *owner;                                /* [count] */
    uint32_t (*borrowers)[PARTITION_BORROWERS_MAX]; /* [count], UINT32_MAX: none */
    uint32_t *index;                                /* [count] among the owner's rows */
    struct partition_info info;
};

static void row_make(const struct shard_spec *spec, uint32_t row, void *to)
{
    vector_fixture_row(&spec->vectors, spec->equal ? 0 : row, to);
}

/* The row a shard lies around. */
static uint32_t center_of(const struct cut *cut, uint32_t shard)
{
    return (uint32_t)((uint64_t)cut->rows.count * shard / cut->spec->shard_count);
}

static void row_assign_near(struct cut *cut, uint32_t row)
{
    float distances[PARTITION_SHARDS_MAX];
    uint32_t best = 0;
    for (uint32_t s = 0; s < cut->spec->shard_count; s++) {
        distances[s] = vector_set_pair(&cut->rows, row, center_of(cut, s));
        best = distances[s] < distances[best] ? s : best;
    }
    cut->owner[row] = best;
    uint32_t count = 0;
    for (uint32_t s = 0; s < cut->spec->shard_count && count < PARTITION_BORROWERS_MAX; s++)
        if (s != best && (double)distances[s] <= cut->spec->closure * (double)distances[best])
            cut->borrowers[row][count++] = s;
}

static void row_assign_drawn(struct cut *cut, uint32_t row)
{
    uint32_t shards = cut->spec->shard_count;
    cut->owner[row] = row < shards ? row : (uint32_t)random_below(STREAM_OWNER, row, shards);
    uint32_t wanted = (uint32_t)random_below(STREAM_BORROWER, row, PARTITION_BORROWERS_MAX + 1);
    wanted = cut->spec->closure > 0.0 ? wanted : 0;
    for (uint32_t i = 0; i < MIN(wanted, shards - 1); i++)
        cut->borrowers[row][i] = (cut->owner[row] + 1 + i) % shards;
}

static void cut_fill(struct cut *cut)
{
    for (uint32_t row = 0; row < cut->rows.count; row++) {
        memset(cut->borrowers[row], 0xff, sizeof(cut->borrowers[row]));
        if (cut->spec->strewn)
            row_assign_drawn(cut, row);
        else
            row_assign_near(cut, row);
        cut->index[row] = (uint32_t)cut->info.own_counts[cut->owner[row]]++;
        for (uint32_t i = 0; i < PARTITION_BORROWERS_MAX; i++)
            if (cut->borrowers[row][i] != UINT32_MAX)
                cut->info.borrowed_counts[cut->borrowers[row][i]]++;
        for (uint32_t i = 0; i < PARTITION_BORROWERS_MAX; i++)
            cut->info.lent_counts[cut->owner[row]] += cut->borrowers[row][i] != UINT32_MAX;
    }
    cut->info.shard_count = cut->spec->shard_count;
    cut->info.row_count = cut->rows.count;
    for (uint32_t s = 1; s < cut->spec->shard_count; s++) {
        float nearest = 0.0f;
        assert_true(cut->info.own_counts[s] > 0);
        for (uint32_t t = 0; t < s; t++) {
            float distance = vector_set_pair(&cut->rows, center_of(cut, s), center_of(cut, t));
            if (t == 0 || distance < nearest) {
                nearest = distance;
                cut->info.parents[s] = t;
            }
        }
    }
}

static bool is_borrowed_by(const struct cut *cut, uint32_t row, uint32_t shard)
{
    for (uint32_t i = 0; i < PARTITION_BORROWERS_MAX; i++)
        if (cut->borrowers[row][i] == shard)
            return true;
    return false;
}

static void vector_append(const struct cut *cut, uint32_t row, struct work_output *out)
{
    struct error err;
    MUST(work_output_append(out, vector_set_row(&cut->rows, row),
                            cut->rows.dim * element_bytes(cut->rows.type), &err),
         err);
}

static void place_append(const struct cut *cut, uint32_t row, struct work_output *out)
{
    uint32_t place[2] = {cut->owner[row], cut->index[row]};
    struct error err;
    MUST(work_output_append(out, place, sizeof(place), &err), err);
    vector_append(cut, row, out);
}

static void own_append(const struct cut *cut, uint32_t row, struct work_output *out)
{
    uint64_t key = shard_fixture_key(row);
    struct error err;
    MUST(work_output_append(out, &row, sizeof(row), &err), err);
    if (cut->spec->keys)
        MUST(work_output_append(out, &key, sizeof(key), &err), err);
    vector_append(cut, row, out);
}

/* The parts of the partition piece, in one order: own, borrowed of each shard, then the sample. */
static void partition_part(uint32_t i, uint32_t shards, char part[WORK_PART_BYTES])
{
    if (i == 2 * shards)
        snprintf(part, WORK_PART_BYTES, "sample");
    else
        snprintf(part, WORK_PART_BYTES, "%s-%u", i < shards ? "own" : "borrowed",
                 i < shards ? i : i - shards);
}

static void cut_write(const struct cut *cut, struct work *work)
{
    enum { SAMPLE_STEP = 40 };
    uint32_t shards = cut->spec->shard_count;
    uint32_t part_count = 2 * shards + 1;
    struct build_stage_record cost = {0};
    struct work_output **outputs = calloc(part_count, sizeof(struct work_output *));
    struct error err;
    assert_non_null(outputs);
    for (uint32_t i = 0; i < part_count; i++) {
        char part[WORK_PART_BYTES];
        partition_part(i, shards, part);
        MUST(work_output_open(work, partition_piece, part, 4096, &outputs[i], &err), err);
    }
    for (uint32_t row = 0; row < cut->rows.count; row++) {
        own_append(cut, row, outputs[cut->owner[row]]);
        for (uint32_t s = 0; s < shards; s++)
            if (is_borrowed_by(cut, row, s))
                place_append(cut, row, outputs[shards + s]);
        if (row % SAMPLE_STEP == 0)
            place_append(cut, row, outputs[2 * shards]);
    }
    MUST(work_piece_commit(work, partition_piece, outputs, part_count, &cut->info,
                           sizeof(cut->info), &cost, &err),
         err);
    free(outputs);
}

/* ---- the whole ---- */

static void set_create(const struct shard_spec *spec, struct vector_set *set)
{
    struct error err;
    MUST(vector_set_create(set, spec->vectors.count, spec->vectors.dim, spec->vectors.type,
                           spec->vectors.metric, &err),
         err);
}

static void plan_make(struct shard_fixture *fixture, const struct cut *cut)
{
    const struct shard_spec *spec = &fixture->spec;
    struct error err;
    fixture->plan = (struct shard_plan){.work = fixture->work,
                                        .shape = {.count = spec->vectors.count,
                                                  .dim = spec->vectors.dim,
                                                  .type = spec->vectors.type},
                                        .metric = spec->vectors.metric,
                                        .norm_max = cut->rows.norm_max,
                                        .keys = spec->keys};
    shard_plan_init(&fixture->plan, &cut->info);
    set_create(spec, &fixture->all);
    fixture->row_of_position = calloc(spec->vectors.count, sizeof(uint32_t));
    assert_non_null(fixture->row_of_position);
    for (uint32_t row = 0; row < spec->vectors.count; row++) {
        uint32_t position = fixture->plan.starts[cut->owner[row]] + cut->index[row];
        fixture->row_of_position[position] = row;
        row_make(spec, row, vector_fixture_slot(&fixture->all, position));
    }
    MUST(vector_set_prepare(&fixture->all, fixture->plan.norm_max, &err), err);
}

/* Leaves an empty fixture. */
static int fixture_clear(struct shard_fixture *fixture)
{
    int result = 0;
    work_close(fixture->work);
    vector_set_destroy(&fixture->all);
    free(fixture->row_of_position);
    if (fixture->directory[0] != '\0')
        result = directory_fixture_remove(fixture->directory);
    *fixture = (struct shard_fixture){.threads = fixture->threads};
    return result;
}

int shard_fixture_setup(void **state)
{
    struct shard_fixture *fixture = calloc(1, sizeof(*fixture));
    *state = fixture;
    if (fixture == NULL)
        return -1;
    fixture->threads = omp_get_max_threads();
    return 0;
}

int shard_fixture_teardown(void **state)
{
    struct shard_fixture *fixture = *state;
    omp_set_num_threads(fixture->threads);
    int result = fixture_clear(fixture);
    free(fixture);
    return result;
}

void shard_fixture_create(struct shard_fixture *fixture, const struct shard_spec *spec)
{
    uint32_t count = spec->vectors.count;
    struct cut cut = {.spec = &fixture->spec};
    struct error err;
    assert_int_equal(fixture_clear(fixture), 0);
    fixture->spec = *spec;
    fixture->merge = (struct merge_params){.degree = spec->degree, .alpha = 1.2f};
    assert_int_equal(directory_fixture_create(fixture->directory), 0);
    MUST(work_open(fixture->directory, "test shards\n", WORK_ALONE, &fixture->work, &err), err);
    set_create(spec, &cut.rows);
    for (uint32_t row = 0; row < count; row++)
        row_make(spec, row, vector_fixture_slot(&cut.rows, row));
    MUST(vector_set_prepare(&cut.rows, 0.0f, &err), err);
    if (count == 0 || spec->shard_count == 0)
        abort(); /* there is no such cut */
    cut.owner = calloc(count, sizeof(*cut.owner));
    cut.borrowers = calloc(count, sizeof(*cut.borrowers));
    cut.index = calloc(count, sizeof(*cut.index));
    assert_non_null(cut.owner);
    assert_non_null(cut.borrowers);
    assert_non_null(cut.index);
    cut_fill(&cut);
    cut_write(&cut, fixture->work);
    plan_make(fixture, &cut);
    free(cut.owner);
    free(cut.borrowers);
    free(cut.index);
    vector_set_destroy(&cut.rows);
}

/* ---- stages ---- */

struct shard_graph_params shard_fixture_graph_params(const struct shard_fixture *fixture)
{
    return (struct shard_graph_params){
        .degree = fixture->spec.degree, .build_list = 24, .alpha = fixture->merge.alpha, .seed = 3};
}

void shard_fixture_graphs(struct shard_fixture *fixture, const struct shard_graph_hooks *hooks)
{
    struct shard_graph_params params = shard_fixture_graph_params(fixture);
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++) {
        struct build_stage_record cost = {0};
        struct error err;
        MUST(shard_graph_run(&fixture->plan, s, &params, hooks, &fixture->monitor, &cost, &err),
             err);
    }
}

void shard_fixture_merges(struct shard_fixture *fixture)
{
    for (uint32_t s = 0; s < fixture->plan.shard_count; s++) {
        struct build_stage_record cost = {0};
        struct error err;
        MUST(merge_run(&fixture->plan, s, &fixture->merge, &fixture->monitor, &cost, &err), err);
    }
}

/* ---- pieces ---- */

struct work_piece shard_graph_piece(uint32_t shard)
{
    return (struct work_piece){BUILD_STAGE_GRAPH, shard};
}

struct work_piece shard_merge_piece(uint32_t shard)
{
    return (struct work_piece){BUILD_STAGE_MERGE, shard};
}

uint32_t shard_piece_u32(const uint8_t *data, size_t offset)
{
    uint32_t value;
    memcpy(&value, data + offset, sizeof(value));
    return value;
}

uint8_t *shard_fixture_section(const struct shard_fixture *fixture, struct work_piece piece,
                               const char *part, uint32_t section, size_t *bytes)
{
    struct work_input *input = NULL;
    struct error err;
    MUST(work_input_open(fixture->work, piece, part, section, 0, &input, &err), err);
    *bytes = (size_t)work_input_left(input);
    uint8_t *data = malloc(*bytes + 1);
    assert_non_null(data);
    MUST(work_input_read(input, data, *bytes, &err), err);
    work_input_close(input);
    return data;
}

/* Part `i` of a piece of the stage and how many sections it has; false behind the last. */
static bool part_at(const struct shard_fixture *fixture, enum build_stage stage, uint32_t i,
                    char part[WORK_PART_BYTES], uint32_t *sections)
{
    static const char *const graph_parts[] = {"own", "lent", "root", "visits"};
    uint32_t shards = fixture->plan.shard_count;
    *sections = 1;
    if (stage == BUILD_STAGE_PARTITION) {
        partition_part(i, shards, part);
        return i <= 2 * shards;
    }
    if (stage == BUILD_STAGE_GRAPH) {
        snprintf(part, WORK_PART_BYTES, "%s", graph_parts[MIN(i, 3u)]);
        *sections = i == 1 ? shards : 1;
        return i < ARRAY_LENGTH(graph_parts);
    }
    snprintf(part, WORK_PART_BYTES, "lists");
    return i == 0;
}

static size_t info_bytes_of(enum build_stage stage)
{
    if (stage == BUILD_STAGE_PARTITION)
        return sizeof(struct partition_info);
    return stage == BUILD_STAGE_GRAPH ? sizeof(struct shard_graph_info) : sizeof(struct merge_info);
}

enum { PARTS_MAX = 64 };

struct section {
    uint8_t *data;
    size_t bytes;
};

struct shard_piece {
    struct work_piece piece;
    struct partition_info info; /* room for the largest info */
    uint32_t part_count;
    struct piece_part {
        char name[WORK_PART_BYTES];
        uint32_t section_count;
        struct section *sections;
    } parts[PARTS_MAX];
};

struct shard_piece *shard_piece_load(const struct shard_fixture *fixture, struct work_piece piece)
{
    struct shard_piece *loaded = calloc(1, sizeof(*loaded));
    struct error err;
    assert_non_null(loaded);
    loaded->piece = piece;
    MUST(work_piece_read(fixture->work, piece, &loaded->info, info_bytes_of(piece.stage), NULL,
                         &err),
         err);
    for (;; loaded->part_count++) {
        assert_in_range(loaded->part_count, 0, PARTS_MAX - 1);
        struct piece_part *part = &loaded->parts[loaded->part_count];
        if (!part_at(fixture, piece.stage, loaded->part_count, part->name, &part->section_count))
            return loaded;
        part->sections = calloc(part->section_count, sizeof(*part->sections));
        assert_non_null(part->sections);
        for (uint32_t i = 0; i < part->section_count; i++)
            part->sections[i].data =
                shard_fixture_section(fixture, piece, part->name, i, &part->sections[i].bytes);
    }
}

void shard_piece_free(struct shard_piece *piece)
{
    for (uint32_t p = 0; p < piece->part_count; p++) {
        for (uint32_t i = 0; i < piece->parts[p].section_count; i++)
            free(piece->parts[p].sections[i].data);
        free(piece->parts[p].sections);
    }
    free(piece);
}

static const struct section *section_find(const struct shard_piece *piece, const char *part,
                                          uint32_t section)
{
    for (uint32_t p = 0; p < piece->part_count; p++)
        if (strcmp(piece->parts[p].name, part) == 0) {
            assert_in_range(section, 0, piece->parts[p].section_count - 1);
            return &piece->parts[p].sections[section];
        }
    fail_msg("no part %s", part);
    return NULL;
}

const uint8_t *shard_piece_data(const struct shard_piece *piece, const char *part, uint32_t section,
                                size_t *bytes)
{
    const struct section *found = section_find(piece, part, section);
    *bytes = found->bytes;
    return found->data;
}

/* Writes `other` in the place of section `instead` (NULL: of none). */
static void piece_write(struct shard_fixture *fixture, const struct shard_piece *piece,
                        const struct section *instead, const struct section *other)
{
    struct work_output *outputs[PARTS_MAX] = {NULL};
    struct build_stage_record cost = {0};
    struct error err;
    for (uint32_t p = 0; p < piece->part_count; p++) {
        const struct piece_part *part = &piece->parts[p];
        MUST(work_output_open(fixture->work, piece->piece, part->name, 4096, &outputs[p], &err),
             err);
        for (uint32_t i = 0; i < part->section_count; i++) {
            const struct section *from = &part->sections[i];
            from = from == instead ? other : from;
            if (i > 0)
                work_output_section(outputs[p]);
            MUST(work_output_append(outputs[p], from->data, from->bytes, &err), err);
        }
    }
    MUST(work_piece_commit(fixture->work, piece->piece, outputs, piece->part_count, &piece->info,
                           info_bytes_of(piece->piece.stage), &cost, &err),
         err);
}

void shard_piece_commit(struct shard_fixture *fixture, const struct shard_piece *piece)
{
    piece_write(fixture, piece, NULL, NULL);
}

void shard_piece_commit_with(struct shard_fixture *fixture, const struct shard_piece *piece,
                             const char *part, uint32_t section, const void *data, size_t bytes)
{
    struct section other = {.data = (void *)data, .bytes = bytes};
    piece_write(fixture, piece, section_find(piece, part, section), &other);
}

void shard_piece_commit_word(struct shard_fixture *fixture, const struct shard_piece *piece,
                             const struct shard_word *word)
{
    const struct section *old = section_find(piece, word->part, word->section);
    uint8_t *data = malloc(old->bytes);
    assert_non_null(data);
    assert_true(word->offset + sizeof(word->value) <= old->bytes);
    memcpy(data, old->data, old->bytes);
    memcpy(data + word->offset, &word->value, sizeof(word->value));
    shard_piece_commit_with(fixture, piece, word->part, word->section, data, old->bytes);
    free(data);
}
