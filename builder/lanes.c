/*
 * lanes.c - see lanes.h.
 */
#include "builder/lanes.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/log.h"

struct lane_job {
    const struct lanes *lanes;
    const uint32_t *pieces;
    uint32_t count;
    lane_piece_fn run;
    void *context;
    atomic_uint next;     /* relaxed: hands out places in pieces[], carries no data */
    pthread_mutex_t lock; /* guards what follows */
    uint32_t failed;      /* lowest failed place; count: none */
    struct error error;
};

struct lane_thread {
    struct lane_job *job;
    uint32_t lane;
};

static void job_fail(struct lane_job *job, uint32_t place, const struct error *err)
{
    pthread_mutex_lock(&job->lock);
    if (place < job->failed) {
        job->failed = place;
        job->error = *err;
    }
    pthread_mutex_unlock(&job->lock);
}

static bool job_failed(struct lane_job *job)
{
    pthread_mutex_lock(&job->lock);
    bool failed = job->failed < job->count;
    pthread_mutex_unlock(&job->lock);
    return failed;
}

/* Binds the calling thread's team. The team keeps its threads from one parallel region to the next,
 * so this lasts. What the kernel refuses is told once a lane. */
static struct lane_place team_bind(const struct lanes *lanes, const struct topology_lane *lane)
{
    struct lane_place place = {.numa = TOPOLOGY_ANY};
    if (lanes->topology == NULL || lane->numa == TOPOLOGY_ANY)
        return place;
    bool pinned = true;
    bool strict = true;
#pragma omp parallel reduction(&& : pinned, strict)
    {
        struct topology_binding binding = topology_bind_thread(
            lanes->topology, lane->numa, (uint32_t)omp_get_thread_num(), TOPOLOGY_MEMORY_STRICT);
        pinned = binding.pinned;
        strict = binding.memory == TOPOLOGY_MEMORY_STRICT;
    }
    if (topology_is_real(lanes->topology) && !(pinned && strict))
        log_warn("numa", "numa_node=%u pinned=%d strict_memory=%d",
                 topology_numa(lanes->topology, lane->numa)->os_index, pinned, strict);
    return (struct lane_place){.topology = lanes->topology, .numa = lane->numa, .strict = strict};
}

static void team_unbind(const struct lane_place *place)
{
    if (place->topology == NULL)
        return;
#pragma omp parallel
    topology_unbind_thread(place->topology);
}

static void lane_run(struct lane_job *job, uint32_t index)
{
    const struct topology_lane *lane = &job->lanes->lanes[index];
    int threads_before = omp_get_max_threads();
    omp_set_num_threads((int)lane->threads);
    struct lane_place place = team_bind(job->lanes, lane);
    for (;;) {
        uint32_t at = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        struct error err;
        if (at >= job->count || job_failed(job))
            break;
        if (job->run(job->context, job->pieces[at], &place, &err) != STATUS_OK)
            job_fail(job, at, &err);
    }
    team_unbind(&place);
    omp_set_num_threads(threads_before);
}

static void *lane_main(void *argument)
{
    const struct lane_thread *thread = argument;
    lane_run(thread->job, thread->lane);
    return NULL;
}

enum status lanes_run(const struct lanes *lanes, const uint32_t *pieces, uint32_t count,
                      lane_piece_fn run, void *context, struct error *err)
{
    struct lane_job job = {
        .lanes = lanes,
        .pieces = pieces,
        .count = count,
        .run = run,
        .context = context,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .failed = count,
    };
    pthread_t *threads = calloc(lanes->lane_count, sizeof(*threads));
    struct lane_thread *arguments = calloc(lanes->lane_count, sizeof(*arguments));
    uint32_t started = 1;
    if (threads == NULL || arguments == NULL) {
        free(threads);
        free(arguments);
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u lanes", lanes->lane_count);
    }
    for (; started < MIN(lanes->lane_count, count); started++) {
        arguments[started] = (struct lane_thread){&job, started};
        if (pthread_create(&threads[started], NULL, lane_main, &arguments[started]) != 0)
            break; /* fewer lanes do as well */
    }
    lane_run(&job, 0);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    free(arguments);
    if (job.failed == count)
        return STATUS_OK;
    if (err != NULL)
        *err = job.error;
    return job.error.status;
}
