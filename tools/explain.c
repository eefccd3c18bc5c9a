/*
 * explain.c - owns the columns of `nightjar search --explain`: their names, order and widths.
 *
 * Thread rules: none of its own; main thread only, as its caller.
 */
#include "tools/explain.h"

#include <stdio.h>

static const struct column {
    const char *heading; /* NULL: not in the table */
    const char *json;
    int width;
} columns[EXPLAIN_COLUMNS] = {
    {"reads", "reads", 7},      {"cached", "cache_hits", 7},     {"read_bytes", "read_bytes", 11},
    {"hops", "hops", 7},        {"exact", "exact_distances", 8}, {"codes", "code_distances", 8},
    {NULL, "failed_blocks", 0}, {"queued_us", "queued_us", 11},  {"cpu_us", "cpu_us", 9},
    {"wait_us", "wait_us", 11}, {"total_us", "total_us", 11},
};
enum { FIRST_TIME = 7, TOTAL = EXPLAIN_COLUMNS - 1 };

static void values_of(const struct search_stats *stats, double values[EXPLAIN_COLUMNS])
{
    /* Numbers of a daemon need not add up. */
    uint64_t spent_ns = stats->queue_ns + stats->cpu_ns;
    uint64_t wait_ns = stats->total_ns > spent_ns ? stats->total_ns - spent_ns : 0;
    const double all[EXPLAIN_COLUMNS] = {
        stats->reads,
        stats->cache_hits,
        (double)stats->read_bytes,
        stats->hops,
        stats->exact_distances,
        stats->code_distances,
        stats->failed_blocks,
        (double)stats->queue_ns / 1000,
        (double)stats->cpu_ns / 1000,
        (double)wait_ns / 1000,
        (double)stats->total_ns / 1000,
    };
    for (uint32_t i = 0; i < EXPLAIN_COLUMNS; i++)
        values[i] = all[i];
}

void explain_add(struct explain *self, const struct search_stats *stats)
{
    double values[EXPLAIN_COLUMNS];
    values_of(stats, values);
    for (uint32_t i = 0; i < EXPLAIN_COLUMNS; i++)
        self->sums[i] += values[i];
    latency_record(&self->total, stats->total_ns);
}

static void means_of(const struct explain *self, double means[EXPLAIN_COLUMNS])
{
    for (uint32_t i = 0; i < EXPLAIN_COLUMNS; i++)
        means[i] = self->total.count > 0 ? self->sums[i] / (double)self->total.count : 0;
}

/* Counts have `decimals`, times always one. */
static void print_cells(const double values[EXPLAIN_COLUMNS], int decimals)
{
    for (int i = 0; i < EXPLAIN_COLUMNS; i++)
        if (columns[i].heading != NULL)
            printf(" %*.*f", columns[i].width, i < FIRST_TIME ? decimals : 1, values[i]);
}

void explain_print_head(void)
{
    printf("%7s", "query");
    for (uint32_t i = 0; i < EXPLAIN_COLUMNS; i++)
        if (columns[i].heading != NULL)
            printf(" %*s", columns[i].width, columns[i].heading);
    printf("\n");
}

void explain_print_row(uint32_t query, const struct search_stats *stats, const char *note)
{
    double values[EXPLAIN_COLUMNS];
    values_of(stats, values);
    printf("%7u", query);
    print_cells(values, 0);
    printf("%s\n", note);
}

/* A line whose only value is a total. */
static void print_total(const char *name, double total_us)
{
    int width = 0;
    for (uint32_t i = 0; i < TOTAL; i++)
        if (columns[i].heading != NULL)
            width += 1 + columns[i].width;
    printf("%7s%*s %*.1f\n", name, width, "", columns[TOTAL].width, total_us);
}

void explain_print_summary(const struct explain *self)
{
    double means[EXPLAIN_COLUMNS];
    means_of(self, means);
    printf("%7s", "mean");
    print_cells(means, 1);
    printf("\n");
    print_total("p50", latency_quantile_us(&self->total, 0.5));
    print_total("p99", latency_quantile_us(&self->total, 0.99));
}

static void print_members(const double values[EXPLAIN_COLUMNS], int decimals)
{
    for (int i = 0; i < EXPLAIN_COLUMNS; i++)
        printf("%s\"%s\":%.*f", i > 0 ? "," : "", columns[i].json, i < FIRST_TIME ? decimals : 3,
               values[i]);
}

void explain_print_json(const struct search_stats *stats)
{
    double values[EXPLAIN_COLUMNS];
    values_of(stats, values);
    print_members(values, 0);
}

void explain_print_json_summary(const struct explain *self)
{
    double means[EXPLAIN_COLUMNS];
    means_of(self, means);
    printf("{\"queries\":%llu,\"mean\":{", (unsigned long long)self->total.count);
    print_members(means, 3);
    printf("},\"total_p50_us\":%.3f,\"total_p99_us\":%.3f}\n",
           latency_quantile_us(&self->total, 0.5), latency_quantile_us(&self->total, 0.99));
}
