/*
 * filter_set.c - owns attributes read from a file and the filters compiled over them.
 *
 * Thread rules: immutable once opened.
 */
#include "tools/filter_set.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file_io.h"
#include "query/filter.h"
#include "tools/attribute_table.h"

enum { FILE_BYTES_MAX = 1 << 30 };

struct filter_set {
    struct attribute_table *table;
    struct filter **filters; /* [count]; NULL: all rows */
    uint64_t count;
    struct groundtruth_filter view;
};

static bool match_one(const void *context, uint32_t query, uint32_t row)
{
    const struct filter_set *set = context;
    (void)query;
    return filter_match(set->filters[0], row);
}

static bool match_by_query(const void *context, uint32_t query, uint32_t row)
{
    const struct filter_set *set = context;
    return set->filters[query] == NULL || filter_match(set->filters[query], row);
}

static enum status filters_allocate(struct filter_set *set, uint64_t count, struct error *err)
{
    set->filters = calloc(MAX(count, 1), sizeof(struct filter *));
    if (set->filters == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %" PRIu64 " filters", count);
    set->count = count;
    return STATUS_OK;
}

static enum status compile_lines(struct filter_set *set, const struct filter_set_params *params,
                                 const char *text, size_t length, struct error *err)
{
    const char *label = file_label(params->path), *end = text + length;
    uint64_t line = 0;
    for (; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t bytes = (size_t)((stop != NULL ? stop : end) - text);
        if (line == set->count)
            return error_set(err, STATUS_INVALID,
                             "%s: more than %" PRIu64 " lines: one a query is "
                             "wanted",
                             label, set->count);
        struct error reason = {0};
        enum status status = bytes == 0
                                 ? STATUS_OK
                                 : filter_compile(text, bytes, attribute_table_view(set->table),
                                                  &set->filters[line], &reason);
        if (status != STATUS_OK)
            return error_set(err, status, "%s: line %" PRIu64 ": %s", label, line + 1, reason.text);
        text += bytes + 1;
    }
    if (line < set->count)
        return error_set(err, STATUS_INVALID, "%s: %" PRIu64 " lines for %" PRIu64 " queries",
                         label, line, set->count);
    return STATUS_OK;
}

static enum status read_lines(struct filter_set *set, const struct filter_set_params *params,
                              struct error *err)
{
    int fd;
    uint64_t bytes;
    char *text = NULL;
    enum status status = file_open_input(params->path, &fd, &bytes, err);
    if (status != STATUS_OK)
        return status;
    if (bytes > FILE_BYTES_MAX)
        status = error_set(err, STATUS_INVALID, "%s: %" PRIu64 " bytes, wanted at most %d",
                           file_label(params->path), bytes, FILE_BYTES_MAX);
    else if ((text = malloc((size_t)bytes + 1)) == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(params->path));
    if (status == STATUS_OK)
        status = file_read_at(fd, params->path, text, (size_t)bytes, 0, err);
    if (status == STATUS_OK)
        status = filters_allocate(set, params->query_count, err);
    if (status == STATUS_OK)
        status = compile_lines(set, params, text, (size_t)bytes, err);
    free(text);
    close(fd);
    return status;
}

enum status filter_set_open(const struct filter_set_params *params, struct filter_set **out,
                            struct error *err)
{
    struct filter_set *set = calloc(1, sizeof(*set));
    if (set == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for filters");
    enum status status = attribute_table_read(params->attributes, params->rows, &set->table, err);
    if (status == STATUS_OK && params->text != NULL) {
        status = filters_allocate(set, 1, err);
        if (status == STATUS_OK)
            status = filter_compile(params->text, strlen(params->text),
                                    attribute_table_view(set->table), &set->filters[0], err);
    } else if (status == STATUS_OK) {
        status = read_lines(set, params, err);
    }
    if (status != STATUS_OK) {
        filter_set_free(set);
        return status;
    }
    set->view = (struct groundtruth_filter){
        .match = params->text != NULL ? match_one : match_by_query,
        .context = set,
        .same_for_all = params->text != NULL,
    };
    *out = set;
    return STATUS_OK;
}

void filter_set_free(struct filter_set *set)
{
    if (set == NULL)
        return;
    for (uint64_t i = 0; i < set->count; i++)
        filter_free(set->filters[i]);
    free(set->filters);
    attribute_table_free(set->table);
    free(set);
}

const struct groundtruth_filter *filter_set_view(const struct filter_set *set)
{
    return &set->view;
}
