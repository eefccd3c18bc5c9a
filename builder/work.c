/*
 * work.c - the work directory itself: making it, holding it, whose work it is, clearing it up.
 *
 * A file is ours only if its whole name has the form that work_name() or work_temporary_name()
 * gives, so that nothing else is ever deleted, should a user keep notes here.
 *
 * In a directory that is held alone, opening removes what cannot be of use: temporaries, damaged
 * records, and files without a record. Files that a forgotten piece left would otherwise lie beside
 * those that replace them, and the disk was not planned for both. What merely cannot be read at the
 * moment is kept.
 *
 * Two processes that make one new directory for different jobs at the same moment may both go on,
 * each seeing its own job. Records name their job, so neither takes the other's pieces for its own.
 *
 * Stateless but for struct work, which does not change once it is open; any thread.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/work_internal.h"
#include "common/clock.h"
#include "common/file_io.h"
#include "layout/store.h"

#define JOB_NAME         "job"
#define LOCK_NAME        "lock"
#define TEMPORARY_SUFFIX ".tmp"

enum {
    JOB_BYTES_MAX = 1 << 20,
    JOB_WORDS_MAX = 100, /* bytes of a job's line in an error */
    SHARD_DIGITS_MIN = 5,
    SHARD_DIGITS_MAX = 10,
    /* 2001 outputs of a partition, or inputs from each of 1000 shards, and the input's own files */
    DESCRIPTORS_WANTED = 8192,
    /* One that was killed holds the lock until the kernel has taken its memory from it. */
    LOCK_ATTEMPTS = 100,
    LOCK_WAIT_MS = 20,
};

/* ---- names ---- */

enum name_kind {
    NAME_FOREIGN,
    NAME_JOB,
    NAME_LOCK,
    NAME_RECORD,
    NAME_FILE,
    NAME_TEMPORARY, /* of any of ours */
};

/* How many characters at the start of `text` can be of a part. */
static size_t part_span(const char *text)
{
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_");
}

bool work_part_valid(const char *part)
{
    size_t length = part_span(part);
    return length > 0 && length < WORK_PART_BYTES && part[length] == '\0' &&
           strcmp(part, WORK_RECORD_PART) != 0;
}

void work_name(struct work_piece piece, const char *part, char name[WORK_NAME_BYTES])
{
    const char *stage = build_stage_name(piece.stage);
    int length;
    assert((unsigned)piece.stage < BUILD_STAGE_COUNT);
    if (piece.shard == WORK_WHOLE)
        length = snprintf(name, WORK_NAME_BYTES, "%s.%s", stage, part);
    else
        length = snprintf(name, WORK_NAME_BYTES, "%s-%05" PRIu32 ".%s", stage, piece.shard, part);
    assert(length > 0 && length < WORK_NAME_BYTES);
}

void work_temporary_name(const char *name, char temporary[WORK_TEMPORARY_BYTES])
{
    int length = snprintf(temporary, WORK_TEMPORARY_BYTES, "%s.%ld-%" PRIx64 TEMPORARY_SUFFIX, name,
                          (long)getpid(), clock_monotonic_ns());
    assert(length > 0 && length < WORK_TEMPORARY_BYTES);
}

void work_label(const struct work *work, const char *name, char label[WORK_LABEL_BYTES])
{
    snprintf(label, WORK_LABEL_BYTES, "%s/%s", file_label(work->path), name);
}

/* True if `text` is what work_temporary_name() puts behind a name. */
static bool temporary_ending(const char *text)
{
    if (*text++ != '.')
        return false;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits] != '-')
        return false;
    text += digits + 1;
    digits = strspn(text, "0123456789abcdef");
    return digits > 0 && strcmp(text + digits, TEMPORARY_SUFFIX) == 0;
}

/* Reads "-SHARD" or nothing; NULL when it is neither as work_name() writes it. */
static const char *shard_parse(const char *text, uint32_t *shard)
{
    *shard = WORK_WHOLE;
    if (*text != '-')
        return text;
    size_t digits = strspn(++text, "0123456789");
    if (digits < SHARD_DIGITS_MIN || digits > SHARD_DIGITS_MAX ||
        (digits > SHARD_DIGITS_MIN && *text == '0'))
        return NULL;
    uint64_t number = strtoull(text, NULL, 10);
    *shard = (uint32_t)number;
    return number < WORK_WHOLE ? text + digits : NULL;
}

/* What `name` is; *piece is that of a record or file. */
static enum name_kind name_parse(const char *name, struct work_piece *piece)
{
    const size_t job_length = strlen(JOB_NAME);
    if (strcmp(name, JOB_NAME) == 0)
        return NAME_JOB;
    if (strcmp(name, LOCK_NAME) == 0)
        return NAME_LOCK;
    if (strncmp(name, JOB_NAME, job_length) == 0 && temporary_ending(name + job_length))
        return NAME_TEMPORARY;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        const char *word = build_stage_name((enum build_stage)stage);
        if (strncmp(name, word, strlen(word)) != 0)
            continue;
        piece->stage = (enum build_stage)stage;
        const char *part = shard_parse(name + strlen(word), &piece->shard);
        if (!part || *part++ != '.')
            continue;
        size_t length = part_span(part);
        if (length == 0 || length >= WORK_PART_BYTES)
            continue;
        if (temporary_ending(part + length))
            return NAME_TEMPORARY;
        if (part[length] == '\0')
            return strcmp(part, WORK_RECORD_PART) == 0 ? NAME_RECORD : NAME_FILE;
    }
    return NAME_FOREIGN;
}

struct entry {
    const char *name;
    enum name_kind kind;
    struct work_piece piece; /* of a record or file */
};

/* Returns false to end the walk. It may delete the entry. */
typedef bool (*entry_fn)(const struct work *work, const struct entry *entry, void *context);

static enum status each_entry(const struct work *work, entry_fn visit, void *context,
                              struct error *err)
{
    /* A descriptor of its own: a dup would share the read position. */
    int fd = openat(work->directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) {
        int os_error = errno;
        if (fd >= 0)
            close(fd);
        return error_set_os(err, os_error, "%s: cannot list", file_label(work->path));
    }
    enum status status = STATUS_OK;
    for (bool more = true; more;) {
        errno = 0; /* visit() may have left something there */
        const struct dirent *found = readdir(directory);
        if (!found) {
            if (errno != 0)
                status = error_set_os(err, errno, "%s: cannot list", file_label(work->path));
            break;
        }
        if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0)
            continue;
        struct entry entry = {.name = found->d_name};
        entry.kind = name_parse(found->d_name, &entry.piece);
        more = visit(work, &entry, context);
    }
    closedir(directory);
    return status;
}

/* ---- small files ---- */

enum status work_read_whole(const struct work *work, const char *name, size_t bytes_max,
                            uint8_t **data, size_t *bytes, struct error *err)
{
    char label[WORK_LABEL_BYTES];
    uint8_t *read = NULL;
    struct stat info;
    work_label(work, name, label);
    /* Without O_NONBLOCK, a FIFO that someone put there would be waited for. */
    int fd = openat(work->directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such file", label);
    if (fd < 0)
        return error_set_os(err, errno, "%s: cannot open", label);
    enum status status = STATUS_OK;
    if (fstat(fd, &info) != 0)
        status = error_set_os(err, errno, "%s: cannot stat", label);
    else if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size > bytes_max)
        status = error_set(err, STATUS_CORRUPT, "%s: want a file of at most %zu bytes", label,
                           bytes_max);
    else if (!(read = malloc((size_t)info.st_size + 1)))
        status = error_set(err, STATUS_NO_MEMORY, "%s: no memory to read it", label);
    else
        status = file_read_at(fd, label, read, (size_t)info.st_size, 0, err);
    close(fd);
    if (status != STATUS_OK) {
        free(read);
        return status;
    }
    read[info.st_size] = '\0';
    *data = read;
    *bytes = (size_t)info.st_size;
    return STATUS_OK;
}

enum status work_write_whole(const struct work *work, const char *name, const void *data,
                             size_t bytes, struct error *err)
{
    char temporary[WORK_TEMPORARY_BYTES];
    struct store_file file;
    work_temporary_name(name, temporary);
    enum status status = store_create(&file, work->directory_fd, work->path, temporary, err);
    if (status != STATUS_OK)
        return status;
    status = store_append(&file, data, bytes, err);
    if (status == STATUS_OK)
        status = store_sync(&file, err);
    enum status closed = store_close(&file, status == STATUS_OK ? err : NULL);
    if (status == STATUS_OK)
        status = closed;
    if (status == STATUS_OK)
        status = store_rename(work->directory_fd, work->path, temporary, name, err);
    if (status != STATUS_OK)
        unlinkat(work->directory_fd, temporary, 0);
    return status;
}

/* ---- opening ---- */

static bool blank_visit(const struct work *work, const struct entry *entry, void *context)
{
    (void)work;
    bool *blank = context;
    *blank = entry->kind == NAME_LOCK || entry->kind == NAME_TEMPORARY;
    return *blank;
}

/* A directory without a job must be a new one: it has no more than what another process leaves,
 * killed or still at it, before it has written the job. */
static enum status directory_check_ours(const struct work *work, struct error *err)
{
    bool blank = true;
    enum status status = each_entry(work, blank_visit, &blank, err);
    if (status != STATUS_OK || blank)
        return status;
    /* Looked for after listing: a process that began meanwhile writes its job before all else. */
    if (faccessat(work->directory_fd, JOB_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return STATUS_OK;
    return error_set(err, STATUS_EXISTS,
                     "%s: is not empty and no work directory (it has no \"" JOB_NAME
                     "\"); name another one",
                     file_label(work->path));
}

static enum status directory_open(struct work *work, bool *created, struct error *err)
{
    enum status status = store_mkdir(AT_FDCWD, work->path, work->path, created, err);
    if (status != STATUS_OK)
        return status;
    work->directory_fd = open(work->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (work->directory_fd < 0 && errno == ENOTDIR)
        return error_set(err, STATUS_EXISTS, "%s: already exists and is not a directory",
                         file_label(work->path));
    if (work->directory_fd < 0)
        return error_set_os(err, errno, "%s: cannot open", file_label(work->path));
    return directory_check_ours(work, err);
}

static enum status lock_take(struct work *work, enum work_hold hold, struct error *err)
{
    struct store_file file;
    struct stat info;
    enum status status = store_open(&file, work->directory_fd, work->path, LOCK_NAME, err);
    if (status != STATUS_OK)
        return status;
    work->lock_fd = file.fd;
    int locked;
    for (int attempt = 0;; attempt++) {
        locked = flock(work->lock_fd, (hold == WORK_ALONE ? LOCK_EX : LOCK_SH) | LOCK_NB);
        if (locked == 0 || attempt == LOCK_ATTEMPTS || (errno != EWOULDBLOCK && errno != EINTR))
            break;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_MS * 1000000L}, NULL);
    }
    if (locked != 0 && errno == EWOULDBLOCK)
        return error_set(err, STATUS_EXISTS,
                         "%s: another process works in it; wait for its end or name another one",
                         file_label(work->path));
    if (locked != 0 || fstat(work->lock_fd, &info) != 0)
        return error_set_os(err, errno, "%s/" LOCK_NAME ": cannot lock", file_label(work->path));
    /* Its last holder removed the directory between our open and our lock. */
    if (info.st_nlink == 0)
        return error_set(err, STATUS_EXISTS, "%s: was just deleted by another process; try again",
                         file_label(work->path));
    return STATUS_OK;
}

/* Lets the directory itself survive a power cut. A parent that may not be read cannot be flushed.
 */
static enum status parent_sync(const struct work *work, struct error *err)
{
    int fd = openat(work->directory_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return STATUS_OK;
    if (fd < 0)
        return error_set_os(err, errno, "%s/..: cannot open", file_label(work->path));
    enum status status = store_sync_directory(fd, work->path, err);
    close(fd);
    return status;
}

/* Bytes of the line at `text` that an error shows. */
static int line_words(const char *text)
{
    return (int)MIN(strcspn(text, "\n"), (size_t)JOB_WORDS_MAX);
}

/* Names the first line in which the directory's job differs from ours, which it does. */
static enum status job_report_difference(const struct work *work, const char *held, const char *job,
                                         struct error *err)
{
    size_t start = 0;
    for (size_t i = 0; held[i] != '\0' && held[i] == job[i]; i++)
        if (held[i] == '\n')
            start = i + 1;
    held += start;
    job += start;
    /* A name that both have is not said twice. */
    size_t name = strcspn(held, " \n");
    bool same_name = held[name] == ' ' && strncmp(held, job, name + 1) == 0;
    const char *has = same_name ? job + name + 1 : job;
    held = *held ? held : "nothing";
    has = *has ? has : "nothing";
    return error_set(err, STATUS_EXISTS,
                     "%s: holds the work of another build: %.*s, this one has %.*s; finish that "
                     "one or delete the directory",
                     file_label(work->path), line_words(held), held, line_words(has), has);
}

/* Writes the job into a new directory, and compares. */
static enum status job_settle(struct work *work, const char *job, enum work_hold hold,
                              struct error *err)
{
    uint8_t *held = NULL;
    size_t bytes = 0;
    enum status status = work_read_whole(work, JOB_NAME, JOB_BYTES_MAX, &held, &bytes, err);
    bool created = status == STATUS_NOT_FOUND;
    if (created) {
        status = parent_sync(work, err);
        if (status == STATUS_OK)
            status = work_write_whole(work, JOB_NAME, job, strlen(job), err);
        if (status == STATUS_OK)
            status = store_sync_directory(work->directory_fd, work->path, err);
        /* Another process may have written its own at the same time. */
        if (status == STATUS_OK)
            status = work_read_whole(work, JOB_NAME, JOB_BYTES_MAX, &held, &bytes, err);
    }
    if (status != STATUS_OK)
        return status;
    const char *text = (const char *)held;
    work->same_job = !created && strcmp(text, job) == 0;
    work->job_hash = XXH3_64bits(text, bytes); /* by which its records are known */
    if (bytes != strlen(text))
        status = error_set(err, STATUS_CORRUPT, "%s/" JOB_NAME ": is damaged; delete the directory",
                           file_label(work->path));
    else if (strcmp(text, job) != 0 && hold == WORK_ALONE && work_is_empty(work))
        status = work_write_whole(work, JOB_NAME, job, strlen(job), err);
    else if (strcmp(text, job) != 0)
        status = job_report_difference(work, text, job, err);
    free(held);
    work->job_hash = XXH3_64bits(job, strlen(job));
    return status;
}

static bool purge_first_visit(const struct work *work, const struct entry *entry, void *context)
{
    (void)context;
    if (entry->kind == NAME_TEMPORARY ||
        (entry->kind == NAME_RECORD &&
         work_piece_check(work, entry->piece, NULL) == STATUS_CORRUPT))
        unlinkat(work->directory_fd, entry->name, 0);
    return true;
}

static bool purge_second_visit(const struct work *work, const struct entry *entry, void *context)
{
    char record[WORK_NAME_BYTES];
    (void)context;
    if (entry->kind != NAME_FILE)
        return true;
    work_name(entry->piece, WORK_RECORD_PART, record);
    if (faccessat(work->directory_fd, record, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
        unlinkat(work->directory_fd, entry->name, 0);
    return true;
}

/* Of a directory held alone; see the head of this file. A courtesy: that it fails is no fault. */
static void purge(const struct work *work)
{
    enum status ignored = each_entry(work, purge_first_visit, NULL, NULL);
    if (ignored == STATUS_OK)
        ignored = each_entry(work, purge_second_visit, NULL, NULL);
    (void)ignored;
}

/* The usual soft limit of 1024 is less than a partition needs. Where the hard one is too low, the
 * call that runs out of descriptors says so. */
static void descriptors_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= DESCRIPTORS_WANTED)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

enum status work_open(const char *path, const char *job, enum work_hold hold, struct work **out,
                      struct error *err)
{
    size_t length = strlen(path);
    assert(*job != '\0' && strlen(job) <= JOB_BYTES_MAX && job[strlen(job) - 1] == '\n');
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length == 0)
        return error_set(err, STATUS_INVALID, "the work directory's path is empty");
    struct work *work = calloc(1, sizeof(*work));
    if (!work)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    work->directory_fd = -1;
    work->lock_fd = -1;
    work->path = strndup(path, length);
    bool created = false;
    enum status status = STATUS_OK;
    if (!work->path)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(path));
    if (status == STATUS_OK)
        status = directory_open(work, &created, err);
    if (status == STATUS_OK)
        status = lock_take(work, hold, err);
    if (status == STATUS_OK)
        status = job_settle(work, job, hold, err);
    /* What we made goes, unless it is another process's too by now. */
    created = created && status != STATUS_EXISTS;
    if (status != STATUS_OK && created && work->lock_fd >= 0) {
        work_remove(work);
        return status;
    }
    if (status != STATUS_OK) {
        if (created)
            rmdir(work->path);
        work_close(work);
        return status;
    }
    if (hold == WORK_ALONE)
        purge(work);
    descriptors_raise();
    *out = work;
    return STATUS_OK;
}

const char *work_path(const struct work *work)
{
    return work->path;
}

static bool done_visit(const struct work *work, const struct entry *entry, void *context)
{
    bool *found = context;
    *found = entry->kind == NAME_RECORD && work_piece_done(work, entry->piece);
    return !*found;
}

bool work_job_number(const char *path, const char *name, uint64_t *value)
{
    struct work work = {.path = (char *)path, .lock_fd = -1};
    uint8_t *job = NULL;
    size_t bytes = 0;
    size_t name_bytes = strlen(name);
    bool found = false;

    work.directory_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (work.directory_fd < 0)
        return false;
    enum status status = work_read_whole(&work, JOB_NAME, JOB_BYTES_MAX, &job, &bytes, NULL);
    close(work.directory_fd);
    if (status != STATUS_OK)
        return false;
    for (const char *line = (const char *)job; line != NULL && *line != '\0' && !found;) {
        char *end = NULL;
        if (strncmp(line, name, name_bytes) == 0 && line[name_bytes] == ' ') {
            *value = strtoull(line + name_bytes + 1, &end, 10);
            found = *end == '\n';
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
    free(job);
    return found;
}

bool work_same_job(const struct work *work)
{
    return work->same_job;
}

bool work_is_empty(const struct work *work)
{
    bool found = false;
    return each_entry(work, done_visit, &found, NULL) == STATUS_OK && !found;
}

/* ---- end ---- */

void work_close(struct work *work)
{
    if (!work)
        return;
    if (work->lock_fd >= 0)
        close(work->lock_fd); /* ends the lock */
    if (work->directory_fd >= 0)
        close(work->directory_fd);
    free(work->path);
    free(work);
}

/* Removes entries of the kinds whose bits are set at `context`. */
static bool remove_visit(const struct work *work, const struct entry *entry, void *context)
{
    const unsigned *kinds = context;
    if (*kinds & 1u << entry->kind)
        unlinkat(work->directory_fd, entry->name, 0);
    return true;
}

void work_remove(struct work *work)
{
    /* Killed in between, it is a work directory still, and one whose records are true. */
    static const unsigned order[] = {1u << NAME_RECORD, 1u << NAME_FILE | 1u << NAME_TEMPORARY,
                                     1u << NAME_JOB, 1u << NAME_LOCK};
    if (!work)
        return;
    enum status status = STATUS_OK;
    if (flock(work->lock_fd, LOCK_EX | LOCK_NB) != 0)
        status = STATUS_EXISTS; /* others work here */
    for (size_t i = 0; status == STATUS_OK && i < ARRAY_LENGTH(order); i++) {
        unsigned kinds = order[i];
        status = each_entry(work, remove_visit, &kinds, NULL);
    }
    if (status == STATUS_OK)
        rmdir(work->path);
    work_close(work);
}
