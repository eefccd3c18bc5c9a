/*
 * build_plan.h - what a build would take, without building: memory and disk by build_size.h, time
 * by running the stages on a few thousand rows and scaling.
 */
#ifndef NIGHTJAR_BUILDER_BUILD_PLAN_H
#define NIGHTJAR_BUILDER_BUILD_PLAN_H

#include "builder/build.h"
#include "builder/build_size.h"

struct build_plan {
    struct vector_shape shape; /* of vectors as they are stored */
    enum element_type given;   /* and their type in the input */
    uint32_t threads;
    uint32_t numa_nodes;    /* of this machine */
    uint32_t lanes;         /* shards that would be at work at a time */
    uint64_t limit_bytes;   /* budget, or what the machine can spare */
    bool fits;              /* else `size` is of the number of shards that takes least */
    struct build_size size; /* bounds on memory, estimates of disk */
    struct attribute_extent attributes; /* file_bytes 0: none */
    double stage_s[BUILD_STAGE_COUNT];  /* wall time, within a factor of two or so */
    double total_s;
    uint32_t calibration_rows; /* rows the times were scaled from */
};

/* Plans a build of params->input or, where that is NULL, of made-up vectors of `shape` (else
 * ignored, may be NULL). Takes seconds of work; writes nothing; params->output is not looked at.
 * Memory is compared with memory_bytes alone if that is given: a plan may be for another machine. A
 * bad row among those read is reported as by a build. */
NODISCARD enum status build_plan_make(const struct build_params *params,
                                      const struct vector_shape *shape, struct build_plan *plan,
                                      struct error *err);

#endif
