/*
 * progress.h - how far a long-running program is.
 *
 * On a terminal (stderr) one line is rewritten once a second:
 *
 *   graph: 412000/1000000 rows 41%  18500 rows/s  0:32 left  rss 1.2 GB
 *
 * and a stage's end leaves a line that stays. Otherwise there is a log line (event=progress) once a
 * minute and one (event=stage) at the end of each stage. An object is used by one thread, the one
 * that runs the stages; worker threads count in their own variables and that thread passes the sum
 * to progress_update(). progress_update() costs one clock read when nothing is due, so call it a
 * few thousand times a second at most.
 *
 * Every function takes NULL for `self` and then does nothing, so a library can take an optional
 * progress.
 */
#ifndef NIGHTJAR_COMMON_PROGRESS_H
#define NIGHTJAR_COMMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Embed or keep on the stack; fields are private. */
struct progress {
    const char *stage; /* NULL between stages */
    const char *unit;
    uint64_t total;
    uint64_t done;
    uint64_t start_ns;
    uint64_t next_ns;    /* when the next line is due */
    uint32_t line_bytes; /* width of the terminal line now showing, 0: none */
    bool terminal;
    bool quiet;
};

/* Prepares *self; decides here whether stderr is a terminal. `quiet`: no output at all, ever. */
void progress_init(struct progress *self, bool quiet);

/* Starts a stage. `stage` (one word) and `unit` ("rows", "blocks") are borrowed until
 * progress_end(). `total` in units; 0: not known. A stage still open is ended first. */
void progress_begin(struct progress *self, const char *stage, uint64_t total, const char *unit);

/* `done` units of the stage are finished, counted from its start. Prints when a line is due. */
void progress_update(struct progress *self, uint64_t done);

/* Ends the stage with a line of its units, seconds, rate and RSS. Outside a stage it does nothing.
 */
void progress_end(struct progress *self);

#endif
