/*
 * root_history.c - ROOT/history: the names that were published, the way back. See root_internal.h.
 *
 * Text, a line each, so that it can be read and mended by hand: the name first, then what is known
 * of it as KEY=VALUE. A name may hold any byte but a slash: blanks, control characters and the per
 * cent sign are written as %XX. Unknown keys are left out, so that a later version may add some.
 *
 * Thread rules: of root_internal.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_io.h"
#include "layout/root_internal.h"

enum { HISTORY_BYTES_MAX = 1 << 20 }; /* a thousand of the longest lines, all escaped, are fewer */

/* ---- one line ---- */

static bool must_escape(unsigned char byte)
{
    return byte <= ' ' || byte == 0x7f || byte == '%';
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False when the text is no name. */
static bool name_parse(const char *text, char name[NAME_MAX + 1])
{
    size_t length = 0;
    while (*text != '\0' && length < NAME_MAX) {
        int byte = (unsigned char)*text++;
        if (byte == '%') {
            int high = digit_of(*text);
            int low = high < 0 ? -1 : digit_of(text[1]);
            if (low < 0)
                return false;
            byte = high * 16 + low;
            text += 2;
        }
        name[length++] = (char)byte;
    }
    name[length] = '\0';
    return *text == '\0' && strlen(name) == length && root_name_valid(name);
}

static bool id_parse(const char *text, struct digest128 *id)
{
    uint64_t halves[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
        int digit = digit_of(text[i]);
        if (digit < 0)
            return false;
        halves[i / 16] = halves[i / 16] << 4 | (uint64_t)digit;
    }
    *id = (struct digest128){.low = halves[1], .high = halves[0]};
    return text[32] == '\0';
}

static void field_parse(const char *field, struct root_record *record)
{
    char *end;
    if (strncmp(field, "id=", 3) == 0) {
        record->id_known = id_parse(field + 3, &record->id);
    } else if (strncmp(field, "at=", 3) == 0) {
        long long at = strtoll(field + 3, &end, 10);
        if (*end == '\0' && at > 0)
            record->at = at;
    } else if (strncmp(field, "recall=", 7) == 0) {
        double recall = strtod(field + 7, &end);
        if (*end == '\0' && recall >= 0 && recall <= 1)
            record->recall = recall;
    }
}

/* Cuts `line` into its fields. */
static bool line_parse(char *line, struct root_record *record)
{
    char *rest = NULL;
    const char *name = strtok_r(line, " ", &rest);
    *record = (struct root_record){.recall = ROOT_RECALL_UNKNOWN};
    if (!name || !name_parse(name, record->name))
        return false;
    for (const char *field; (field = strtok_r(NULL, " ", &rest));)
        field_parse(field, record);
    return true;
}

static void line_write(FILE *out, const struct root_record *record)
{
    for (const char *at = record->name; *at != '\0'; at++) {
        if (must_escape((unsigned char)*at))
            fprintf(out, "%%%02x", (unsigned)(unsigned char)*at);
        else
            fputc(*at, out);
    }
    if (record->id_known)
        fprintf(out, " id=%016" PRIx64 "%016" PRIx64, record->id.high, record->id.low);
    if (record->at > 0)
        fprintf(out, " at=%" PRId64, record->at);
    if (record->recall >= 0)
        fprintf(out, " recall=%.4f", record->recall);
    fputc('\n', out);
}

/* ---- the file ---- */

/* *text: the file with a NUL behind it, the caller's to free; NULL: there is none that could be a
 * history. */
static enum status text_read(const struct root_handle *root, char **text, struct error *err)
{
    *text = NULL;
    /* Its kind is known only once it is open; until then nothing may be waited for. */
    int fd = openat(root->fd, ROOT_HISTORY_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO))
        return STATUS_OK;
    if (fd < 0)
        return error_set_os(err, errno, "%s/%s: cannot open", file_label(root->path),
                            ROOT_HISTORY_NAME);
    struct stat info;
    enum status status = STATUS_OK;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= HISTORY_BYTES_MAX) {
        const size_t bytes = (size_t)info.st_size;
        *text = calloc(bytes + 1, 1);
        status =
            *text ? file_read_at(fd, ROOT_HISTORY_NAME, *text, bytes, 0, err)
                  : error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
        if (*text && strlen(*text) != bytes) /* no text, or what a failed read left */
            **text = '\0';
    }
    close(fd);
    if (status != STATUS_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

enum status root_history_read(const struct root_handle *root, struct root_history *out,
                              struct error *err)
{
    char *text;
    *out = (struct root_history){.records = NULL};
    enum status status = text_read(root, &text, err);
    if (status != STATUS_OK || !text)
        return status;
    out->records = calloc(ROOT_HISTORY_MAX, sizeof(*out->records));
    if (!out->records) {
        free(text);
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line && out->count < ROOT_HISTORY_MAX;
         line = strtok_r(NULL, "\n", &rest)) {
        struct root_record *record = &out->records[out->count];
        if (line_parse(line, record) && root_history_find(out, record->name) == out->count)
            out->count++;
    }
    free(text);
    return STATUS_OK;
}

enum status root_history_write(const struct root_handle *root, const struct root_history *history,
                               struct error *err)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    for (size_t i = 0; i < MIN(history->count, (size_t)ROOT_HISTORY_MAX); i++)
        line_write(out, &history->records[i]);
    enum status status = STATUS_OK;
    if (fclose(out) != 0)
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", file_label(root->path));
    if (status == STATUS_OK)
        status = store_write_text(root->fd, root->path, ROOT_HISTORY_NAME, text, err);
    free(text);
    return status;
}

void root_history_free(struct root_history *history)
{
    free(history->records);
    *history = (struct root_history){.records = NULL};
}

size_t root_history_find(const struct root_history *history, const char *name)
{
    size_t at = 0;
    while (at < history->count && strcmp(history->records[at].name, name) != 0)
        at++;
    return at;
}

bool root_record_matches(const struct root_record *record, struct digest128 id)
{
    return !record->id_known || (record->id.low == id.low && record->id.high == id.high);
}
