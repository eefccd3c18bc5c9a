/*
 * serving.c - see serving.h.
 *
 * A generation is opened in two steps on two threads: the index by a loader of low priority, since
 * that is work for seconds to minutes beside live queries; the engine by the keeper, because the
 * engine's threads inherit the priority of the thread that starts them and could not raise it.
 *
 * Locks: serving.lock guards live, alive, every served.references, wishes, looks and stats. It is
 * held for a few instructions, never over anything that waits but the condition variable: every
 * query takes it twice. The keeper alone writes `live` once it runs, and reads it without.
 */
#include "query/serving.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "layout/publish.h"
#include "layout/root.h"

enum {
    /* Of the loader: a tenth of a busy CPU, and what queries leave idle. Nice 19, a fortieth, would
     * let a swap take minutes under full load. */
    LOADER_NICE = 10,
    EVENT_BYTES = 16 << 10, /* of inotify, read at a time */
    ALIVE_MAX = 2,          /* the live one, and the next or the one before */
    /* How often the keeper looks by itself: whether the root is back, */
    RETRY_WATCH_MS = 1000,
    /* whether another directory has its path now, of which inotify says nothing where a symbolic
     * link or a directory above was replaced, */
    CHECK_WATCH_MS = 30000,
    /* and, while nothing is live, whether something opens. What was refused for a reason that may
     * pass (no descriptor, no memory, a device that failed) is tried again at CHECK_WATCH_MS. */
    RETRY_OPEN_MS = 5000,
};

struct serving {
    struct serving_params params;
    char *root, *index;

    pthread_t keeper;
    bool keeper_started;
    int wake_fd;
    int watch_fd;           /* inotify; keeper */
    int watch;              /* of the root; -1: it cannot be watched now; keeper */
    struct served *leaving; /* replaced, to be freed once those who wait have been told; keeper */
    bool may_pass;          /* what was last refused may open the next time; keeper */

    pthread_mutex_t lock;
    pthread_cond_t released; /* some references fell to 0 */
    struct served *live;     /* NULL between two generations that do not fit together */
    struct served *alive;    /* all, the live one and those with answers outstanding */
    struct serving_wish *wishes;
    bool look_wanted, stopping;
    struct engine_stats retired; /* counters of engines that are gone */
    struct serving_stats stats;
    uint64_t live_since_ns;
};

const char *serving_swap_name(enum serving_swap swap)
{
    return swap == SERVING_REPLACE ? "replace" : "overlap";
}

static void text_copy(char *out, size_t out_bytes, const char *text)
{
    snprintf(out, out_bytes, "%s", text);
}

/* ---- references ---- */

struct served *serving_acquire(struct serving *serving)
{
    pthread_mutex_lock(&serving->lock);
    struct served *served = serving->live;
    if (served)
        served->references++;
    pthread_mutex_unlock(&serving->lock);
    return served;
}

enum status serving_require(struct serving *serving, struct served **out, struct error *err)
{
    struct served *served = serving_acquire(serving);
    if (!served)
        return error_set(err, STATUS_BUSY, "the next generation is being opened: try again");
    *out = served;
    return STATUS_OK;
}

void served_release(struct served *served)
{
    struct serving *serving = served->serving;
    pthread_mutex_lock(&serving->lock);
    assert(served->references > 0);
    if (--served->references == 0)
        pthread_cond_broadcast(&serving->released);
    pthread_mutex_unlock(&serving->lock);
}

/* ---- opening and freeing ---- */

static void directory_identity(const char *path, struct served *served)
{
    struct stat info;
    if (stat(path, &info) == 0) {
        served->device = info.st_dev;
        served->inode = info.st_ino;
    }
}

struct loading {
    const char *path;
    struct index_options options;
    struct index *index;
    enum status status;
    struct error *err;
};

static void *loader_main(void *context)
{
    struct loading *loading = context;
    /* Best effort: a load at full priority slows queries down, no more. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOADER_NICE);
    loading->status = index_open(loading->path, &loading->options, &loading->index, loading->err);
    return NULL;
}

/* Beside live queries: on one thread, behind them. */
static enum status index_open_gently(struct loading *loading)
{
    pthread_t loader;
    loading->options.threads = 1;
    int failed = pthread_create(&loader, NULL, loader_main, loading);
    if (failed)
        return error_set_os(loading->err, failed, "%s: no thread to open it", loading->path);
    pthread_join(loader, NULL);
    return loading->status;
}

/* As engine_create(), whose threads are to leave signals to the program's own. */
static enum status engine_start(struct serving *serving, struct served *served, struct error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    enum status status =
        engine_create(&serving->params.engine, served->index, &served->engine, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* So that who gave --memory recognises it in what is said to be too little. */
static void explain_half(const struct serving *serving, struct error *err)
{
    const struct error why = *err;
    (void)error_set(err, why.status,
                    "%s (--swap overlap: each of two generations has half of %" PRIu64 " bytes)",
                    why.text, serving->params.memory_bytes);
}

/* How a generation is opened, and how many of its own queries it must answer in full. */
enum open_mode {
    OPEN_BESIDE,  /* the live one, behind its queries: all */
    OPEN_INSTEAD, /* of what was live, with all CPUs: all */
    OPEN_SOUND,   /* where nothing is live, but there may be others: half */
    OPEN_ANYHOW,  /* where there is nothing else: any */
};

/* Has it answer queries of its own. */
static enum status served_prove(struct served *served, enum open_mode mode, struct error *err)
{
    const struct proof *proof = &served->proof;
    enum status status = proof_run(served->engine, &served->proof, err);
    engine_stats_clear(served->engine); /* counters are of clients' queries */
    if (status != STATUS_OK || proof->degraded == 0)
        return status;
    bool sound = proof->degraded <= proof->queries / 2;
    if (mode < OPEN_SOUND || (mode == OPEN_SOUND && !sound))
        return error_set(err, STATUS_IO, "%s: %u of %u searches for its own vectors miss blocks",
                         index_path(served->index), served->proof.degraded, served->proof.queries);
    log_error("degraded", "name=\"%s\" queries=%u degraded=%u", served->name, served->proof.queries,
              served->proof.degraded);
    return STATUS_OK;
}

/* Everything a generation needs to be served; it is not live yet. */
static enum status served_open(struct serving *serving, const char *path, enum open_mode mode,
                               struct served **out, struct error *err)
{
    struct served *served = calloc(1, sizeof(*served));
    if (!served)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    const char *slash = strrchr(path, '/');
    snprintf(served->name, sizeof(served->name), "%s", slash ? slash + 1 : path);
    served->serving = serving;
    directory_identity(path, served);
    struct loading loading = {
        .path = path, .options = {.memory_bytes = serving->stats.memory_bytes}, .err = err};
    enum status status = mode == OPEN_BESIDE
                             ? index_open_gently(&loading)
                             : index_open(path, &loading.options, &loading.index, err);
    if (status == STATUS_OK) {
        served->index = loading.index;
        served->manifest = index_manifest(loading.index);
        status = engine_start(serving, served, err);
    }
    if (status == STATUS_OK)
        status = served_prove(served, mode, err);
    if (status != STATUS_OK) {
        if (status == STATUS_NO_MEMORY &&
            serving->stats.memory_bytes != serving->params.memory_bytes)
            explain_half(serving, err);
        engine_destroy(served->engine);
        index_release(served->index);
        free(served);
        return status;
    }
    *out = served;
    return STATUS_OK;
}

static void served_link(struct serving *serving, struct served *served)
{
    pthread_mutex_lock(&serving->lock);
    assert(!serving->alive || !serving->alive->next); /* ALIVE_MAX */
    served->next = serving->alive;
    serving->alive = served;
    pthread_mutex_unlock(&serving->lock);
}

/* Waits for its last reference, then frees it; its counters live on. It is not live any more. */
static void served_retire(struct serving *serving, struct served *served)
{
    struct engine_stats last;
    pthread_mutex_lock(&serving->lock);
    while (served->references > 0)
        pthread_cond_wait(&serving->released, &serving->lock);
    /* In one step with the wait: who asks for statistics refers to all that are alive. */
    struct served **link = &serving->alive;
    while (*link != served)
        link = &(*link)->next;
    *link = served->next;
    engine_stats_get(served->engine, &last);
    engine_stats_add(&serving->retired, &last);
    pthread_mutex_unlock(&serving->lock);
    engine_destroy(served->engine);
    index_release(served->index);
    free(served);
}

/* Makes `next` (NULL: nothing) the one that is served; returns what was. */
static struct served *live_set(struct serving *serving, struct served *next)
{
    pthread_mutex_lock(&serving->lock);
    struct served *before = serving->live;
    serving->live = next;
    serving->live_since_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&serving->lock);
    return before;
}

/* ---- a look at ROOT/current ---- */

static void outcome_of(const struct served *served, struct serving_outcome *outcome)
{
    outcome->generation = served->manifest->generation_id;
    memcpy(outcome->name, served->name, sizeof(outcome->name));
}

static bool is_served(const struct served *served, const char *path)
{
    struct stat info;
    return served && stat(path, &info) == 0 && info.st_dev == served->device &&
           info.st_ino == served->inode;
}

static void loading_set(struct serving *serving, bool loading)
{
    pthread_mutex_lock(&serving->lock);
    serving->stats.loading = loading;
    pthread_mutex_unlock(&serving->lock);
}

/* What `current` names is live: what was refused before is nobody's concern any more. The lock is
 * held. */
static void refusal_clear(struct serving *serving)
{
    serving->stats.fallback = false;
    serving->stats.refused_name[0] = '\0';
    serving->stats.refused_reason[0] = '\0';
}

static void swap_note(struct serving *serving, const struct served *next, uint64_t load_ns)
{
    pthread_mutex_lock(&serving->lock);
    serving->stats.swaps++;
    serving->stats.load_ns = load_ns;
    refusal_clear(serving);
    pthread_mutex_unlock(&serving->lock);
    log_info("swap",
             "generation=%016" PRIx64 "%016" PRIx64 " name=\"%s\" load_ms=%" PRIu64
             " sample_recall=%.4f",
             next->manifest->generation_id.high, next->manifest->generation_id.low, next->name,
             load_ns / 1000000, next->proof.recall);
}

static void refuse(struct serving *serving, const char *name, struct serving_outcome *outcome)
{
    pthread_mutex_lock(&serving->lock);
    serving->stats.refused++;
    text_copy(serving->stats.refused_name, sizeof(serving->stats.refused_name), name);
    text_copy(serving->stats.refused_reason, sizeof(serving->stats.refused_reason),
              outcome->error.text);
    pthread_mutex_unlock(&serving->lock);
    log_error("refused", "name=\"%s\" live=\"%s\" error=\"%s\"", name,
              serving->live ? serving->live->name : "", outcome->error.text);
}

/* The best of the root's other generations that opens, for when `current` is at fault. */
static bool candidate_open(struct serving *serving, struct served **out)
{
    struct root_listing listing;
    struct error why;
    char path[PATH_MAX];
    if (root_candidates(serving->root, &listing, &why) != STATUS_OK)
        return false;
    for (size_t i = 0; !*out && i < listing.count; i++) {
        const char *name = listing.entries[i].name;
        if (snprintf(path, sizeof(path), "%s/%s", serving->root, name) >= (int)sizeof(path))
            continue;
        if (served_open(serving, path, OPEN_SOUND, out, &why) != STATUS_OK)
            log_error("refused", "name=\"%s\" live=\"\" error=\"%s\"", name, why.text);
    }
    root_listing_free(&listing);
    return *out != NULL;
}

/* The next beside the live one, which serves until the switch. */
static enum status swap_overlap(struct serving *serving, const char *path, struct served **next,
                                struct error *err)
{
    enum status status = served_open(serving, path, OPEN_BESIDE, next, err);
    if (status != STATUS_OK)
        return status;
    served_link(serving, *next);
    serving->leaving = live_set(serving, *next);
    return STATUS_OK;
}

/* Something to answer from, in place of what did not open: the generation that was live (its path;
 * NULL: none), whose files may be gone by now, or another. */
static void restore(struct serving *serving, const char *before_path)
{
    struct served *served = NULL;
    struct error why;
    if (before_path && served_open(serving, before_path, OPEN_ANYHOW, &served, &why) == STATUS_OK)
        log_warn("restored", "name=\"%s\"", served->name);
    else if (candidate_open(serving, &served))
        log_error("fallback", "serving=\"%s\"", served->name);
    else
        log_error("nothing-live", "root=\"%s\" retry_ms=%d", serving->root, (int)RETRY_OPEN_MS);
    if (!served)
        return;
    served_link(serving, served);
    (void)live_set(serving, served);
}

/* The live one is freed first. What can be found out about the next before that, is. */
static enum status swap_replace(struct serving *serving, const char *path, struct served **next,
                                struct error *err)
{
    char *before_path = NULL;
    enum status status = index_probe(path, serving->stats.memory_bytes, err);
    if (status == STATUS_OK && serving->live) {
        before_path = strdup(index_path(serving->live->index));
        served_retire(serving, live_set(serving, NULL));
    }
    if (status == STATUS_OK)
        status = served_open(serving, path, OPEN_INSTEAD, next, err);
    if (status == STATUS_OK) {
        served_link(serving, *next);
        (void)live_set(serving, *next);
    } else if (!serving->live) {
        restore(serving, before_path);
    }
    free(before_path);
    return status;
}

static void look(struct serving *serving, struct serving_outcome *outcome)
{
    char path[PATH_MAX];
    uint64_t began_ns = clock_monotonic_ns();
    struct error *err = &outcome->error;
    /* Only this thread changes it. */
    struct served *live = serving->live;
    outcome->status = publish_current(serving->root, path, sizeof(path), err);
    if (outcome->status != STATUS_OK) {
        if (!live)
            restore(serving, NULL);
        refuse(serving, PUBLISH_LINK_NAME, outcome);
        return;
    }
    if (is_served(live, path)) {
        pthread_mutex_lock(&serving->lock);
        refusal_clear(serving);
        pthread_mutex_unlock(&serving->lock);
        outcome_of(live, outcome);
        return;
    }
    const char *name = strrchr(path, '/') + 1;
    struct served *next = NULL;
    log_info("loading", "name=\"%s\" swap=%s", name, serving_swap_name(serving->params.swap));
    loading_set(serving, true);
    if (serving->params.swap == SERVING_REPLACE)
        outcome->status = swap_replace(serving, path, &next, err);
    else
        outcome->status = swap_overlap(serving, path, &next, err);
    loading_set(serving, false);
    if (outcome->status != STATUS_OK) {
        refuse(serving, name, outcome);
        return;
    }
    outcome->swapped = true;
    outcome_of(next, outcome);
    swap_note(serving, next, clock_monotonic_ns() - began_ns);
}

/* ---- the keeper ---- */

static void wake(struct serving *serving)
{
    const uint64_t one = 1;
    ssize_t written = write(serving->wake_fd, &one, sizeof(one));
    (void)written; /* full means readable */
}

enum status serving_reload(struct serving *serving, struct serving_wish *wish, struct error *err)
{
    if (serving->stats.fixed)
        return error_set(err, STATUS_INVALID, "%s is served with --index: there is no next one",
                         serving->index);
    pthread_mutex_lock(&serving->lock);
    serving->look_wanted = true;
    if (wish) {
        wish->next = serving->wishes;
        serving->wishes = wish;
    }
    pthread_mutex_unlock(&serving->lock);
    wake(serving);
    return STATUS_OK;
}

/* errno says why. A root that is not there at all is reported by who reads `current`. */
static void not_watched(const struct serving *serving)
{
    if (!serving->live && (errno == ENOENT || errno == ENOTDIR))
        return;
    log_warn("not-watched", "root=\"%s\" error=\"%s\" remedy=\"reload after each publish\"",
             serving->root, strerror(errno));
}

/* Watches the directory that has the root's path now. True when it is another than before, as
 * after the root was moved and made anew: then its `current` is yet to be looked at. */
static bool root_watch(struct serving *serving)
{
    const uint32_t events = IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF;
    if (serving->watch_fd < 0)
        return false;
    /* Of a directory that is watched already this is the same number. IN_MASK_ADD: replacing the
     * mask of a watch clears it first, and Linux drops what happens in that moment (about one event
     * in 5,000 when the two are made to race). */
    int watch =
        inotify_add_watch(serving->watch_fd, serving->root, events | IN_ONLYDIR | IN_MASK_ADD);
    if (watch == serving->watch)
        return false;
    if (watch < 0)
        not_watched(serving);
    if (serving->watch >= 0) /* fails where the directory is gone, and the watch with it */
        (void)inotify_rm_watch(serving->watch_fd, serving->watch);
    serving->watch = watch;
    return watch >= 0;
}

/* Whether what happened in the root calls for a look. */
static bool root_changed(struct serving *serving)
{
    _Alignas(struct inotify_event) char events[EVENT_BYTES];
    bool changed = false;
    while (serving->watch_fd >= 0) {
        ssize_t got = read(serving->watch_fd, events, sizeof(events));
        if (got <= 0)
            break;
        const struct inotify_event *event;
        for (char *at = events; at < events + got; at += sizeof(*event) + event->len) {
            event = (const void *)at;
            if ((event->mask & IN_Q_OVERFLOW) ||
                (event->len > 0 && strcmp(event->name, PUBLISH_LINK_NAME) == 0))
                changed = true;
        }
    }
    return changed;
}

/* Looks, and tells those who asked before it began. */
static void look_and_tell(struct serving *serving)
{
    pthread_mutex_lock(&serving->lock);
    struct serving_wish *wishes = serving->wishes;
    serving->wishes = NULL;
    serving->look_wanted = false;
    pthread_mutex_unlock(&serving->lock);
    struct serving_outcome outcome = {0};
    look(serving, &outcome);
    serving->may_pass = outcome.status == STATUS_IO || outcome.status == STATUS_NO_MEMORY ||
                        outcome.status == STATUS_BUSY;
    while (wishes) {
        struct serving_wish *wish = wishes;
        wishes = wish->next;
        wish->done(wish, &outcome);
    }
    if (serving->leaving)
        served_retire(serving, serving->leaving);
    serving->leaving = NULL;
}

/* How long the keeper may sleep. */
static int patience_ms(const struct serving *serving)
{
    if (serving->watch < 0)
        return RETRY_WATCH_MS;
    return serving->live ? CHECK_WATCH_MS : RETRY_OPEN_MS;
}

static void *keeper_main(void *context)
{
    struct serving *serving = context;
    struct pollfd fds[2] = {{.fd = serving->wake_fd, .events = POLLIN},
                            {.fd = serving->watch_fd, .events = POLLIN}};
    for (;;) {
        pthread_mutex_lock(&serving->lock);
        bool stopping = serving->stopping, wanted = serving->look_wanted;
        pthread_mutex_unlock(&serving->lock);
        if (stopping)
            return NULL;
        if (root_watch(serving) || wanted) {
            /* This look is what changes so far call for, too. */
            (void)root_changed(serving);
            look_and_tell(serving);
            continue;
        }
        int events = poll(fds, 2, patience_ms(serving));
        uint64_t count;
        ssize_t got = read(serving->wake_fd, &count, sizeof(count));
        (void)got;
        bool retry = events == 0 && (!serving->live || serving->may_pass);
        if (root_changed(serving) || retry) {
            pthread_mutex_lock(&serving->lock);
            serving->look_wanted = true;
            pthread_mutex_unlock(&serving->lock);
        }
    }
}

/* The watch begins before `current` is read for the first time, so that no publish is missed. */
static enum status watch_begin(struct serving *serving, struct error *err)
{
    serving->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (serving->wake_fd < 0)
        return error_set_os(err, errno, "cannot create an eventfd");
    serving->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (serving->watch_fd < 0)
        not_watched(serving);
    /* A root that is not there shows itself when it is opened. */
    if (access(serving->root, F_OK) == 0)
        (void)root_watch(serving);
    return STATUS_OK;
}

static enum status keeper_start(struct serving *serving, struct error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&serving->keeper, NULL, keeper_main, serving);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return error_set_os(err, failed, "cannot start the thread that swaps generations");
    serving->keeper_started = true;
    return STATUS_OK;
}

/* ---- start and end ---- */

/* Another generation in place of `name`, which current names and which is at fault for `cause`. */
static bool open_fallback(struct serving *serving, const char *name, const struct error *cause,
                          struct served **out)
{
    if (!candidate_open(serving, out))
        return false;
    log_error("fallback", "serving=\"%s\" refused=\"%s\" error=\"%s\"", (*out)->name, name,
              cause->text);
    serving->stats.fallback = true;
    serving->stats.refused = 1;
    text_copy(serving->stats.refused_name, sizeof(serving->stats.refused_name), name);
    text_copy(serving->stats.refused_reason, sizeof(serving->stats.refused_reason), cause->text);
    return true;
}

/* Whether there is a link at all: a root where nothing was published yet is for the operator to
 * mend, a link that leads nowhere good is not. */
static bool link_exists(const char *root)
{
    char path[PATH_MAX];
    struct stat info;
    return snprintf(path, sizeof(path), "%s/%s", root, PUBLISH_LINK_NAME) < (int)sizeof(path) &&
           lstat(path, &info) == 0;
}

/* Whether ROOT/current names another generation than path[] does; then path[] is that. */
static bool current_changed(const char *root, char *path, size_t path_bytes)
{
    char now[PATH_MAX];
    if (publish_current(root, now, sizeof(now), NULL) != STATUS_OK || strcmp(now, path) == 0)
        return false;
    text_copy(path, path_bytes, now);
    return true;
}

/* What `current` names, or the newest good one in its place. */
static enum status open_first(struct serving *serving, struct served **out, struct error *err)
{
    char path[PATH_MAX];
    const char *name = PUBLISH_LINK_NAME;
    struct error cause;
    if (serving->index)
        return served_open(serving, serving->index, OPEN_ANYHOW, out, err);
    enum status status = publish_current(serving->root, path, sizeof(path), &cause);
    bool hopeless = status != STATUS_OK && !link_exists(serving->root);
    bool again = status == STATUS_OK;
    while (again) {
        name = strrchr(path, '/') + 1;
        status = served_open(serving, path, OPEN_SOUND, out, &cause);
        hopeless = status == STATUS_NO_MEMORY;
        /* One that was published meanwhile, and this one removed, is no fault of `current`. */
        again = status != STATUS_OK && current_changed(serving->root, path, sizeof(path));
    }
    if (status == STATUS_OK || (!hopeless && open_fallback(serving, name, &cause, out)))
        return STATUS_OK;
    /* What misses blocks is better than nothing. */
    struct error again_too;
    if (status == STATUS_IO &&
        served_open(serving, path, OPEN_ANYHOW, out, &again_too) == STATUS_OK)
        return STATUS_OK;
    return error_set(err, status, "%s", cause.text);
}

static enum status copy_paths(struct serving *serving, const struct serving_params *params,
                              struct error *err)
{
    if (params->root)
        serving->root = strdup(params->root);
    if (params->index)
        serving->index = strdup(params->index);
    if (!serving->root && !serving->index)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    return STATUS_OK;
}

enum status serving_create(const struct serving_params *params, struct serving **out,
                           struct error *err)
{
    assert(!params->root != !params->index);
    struct serving *serving = calloc(1, sizeof(*serving));
    if (!serving)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    serving->params = *params;
    serving->wake_fd = serving->watch_fd = serving->watch = -1;
    pthread_mutex_init(&serving->lock, NULL);
    pthread_cond_init(&serving->released, NULL);
    serving->stats.fixed = params->index != NULL;
    serving->stats.swap = params->swap;
    bool halves = params->root && params->swap == SERVING_OVERLAP;
    serving->stats.memory_bytes = halves ? params->memory_bytes / 2 : params->memory_bytes;

    uint64_t began_ns = clock_monotonic_ns();
    struct served *first = NULL;
    enum status status = copy_paths(serving, params, err);
    if (status == STATUS_OK && serving->root)
        status = watch_begin(serving, err);
    if (status == STATUS_OK)
        status = open_first(serving, &first, err);
    if (status == STATUS_OK) {
        served_link(serving, first);
        (void)live_set(serving, first);
        serving->stats.load_ns = clock_monotonic_ns() - began_ns;
        if (serving->root)
            status = keeper_start(serving, err);
    }
    if (status != STATUS_OK) {
        serving_destroy(serving);
        return status;
    }
    *out = serving;
    return STATUS_OK;
}

static void cancel_wishes(struct serving *serving)
{
    struct serving_outcome outcome = {0};
    outcome.status = error_set(&outcome.error, STATUS_CANCELLED, "the daemon is stopping");
    while (serving->wishes) {
        struct serving_wish *wish = serving->wishes;
        serving->wishes = wish->next;
        wish->done(wish, &outcome);
    }
}

void serving_destroy(struct serving *serving)
{
    if (!serving)
        return;
    if (serving->keeper_started) {
        pthread_mutex_lock(&serving->lock);
        serving->stopping = true;
        pthread_mutex_unlock(&serving->lock);
        wake(serving);
        pthread_join(serving->keeper, NULL);
    }
    cancel_wishes(serving);
    struct served *last = live_set(serving, NULL);
    if (last)
        served_retire(serving, last);
    if (serving->watch_fd >= 0)
        close(serving->watch_fd);
    if (serving->wake_fd >= 0)
        close(serving->wake_fd);
    pthread_cond_destroy(&serving->released);
    pthread_mutex_destroy(&serving->lock);
    free(serving->root);
    free(serving->index);
    free(serving);
}

void serving_stats_get(struct serving *serving, struct serving_stats *out)
{
    struct served *pinned[ALIVE_MAX];
    struct engine_stats stats;
    size_t count = 0;
    pthread_mutex_lock(&serving->lock);
    *out = serving->stats;
    out->live_ns = serving->live ? clock_monotonic_ns() - serving->live_since_ns : 0;
    out->engine = serving->retired;
    const struct served *live = serving->live;
    for (struct served *served = serving->alive; served; served = served->next) {
        served->references++;
        pinned[count++] = served;
    }
    pthread_mutex_unlock(&serving->lock);
    /* Without the lock: it is work for all workers and buckets, and queries wait for the lock. What
     * is pinned here is not in `retired` yet, and keeps its counters until it is let go. */
    for (size_t i = 0; i < count; i++) {
        engine_stats_get(pinned[i]->engine, &stats);
        engine_stats_add(&out->engine, &stats);
        if (pinned[i] == live) {
            out->engine.queued = stats.queued;
            out->engine.in_flight = stats.in_flight;
            out->engine.reads_in_flight = stats.reads_in_flight;
            out->engine.threads = stats.threads;
            memcpy(out->engine.io, stats.io, sizeof(stats.io));
        }
        served_release(pinned[i]);
    }
}
