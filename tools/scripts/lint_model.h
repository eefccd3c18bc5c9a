/*
 * lint_model.h - included by `make lint` ahead of every source that clang-tidy reads, never by a
 * build.
 *
 * The analyzer sees one file at a time, so it does not know that error_set() returns the status it
 * was given, and believes that a failing path may go on as if it had succeeded.
 */
#ifndef NIGHTJAR_TOOLS_SCRIPTS_LINT_MODEL_H
#define NIGHTJAR_TOOLS_SCRIPTS_LINT_MODEL_H

#include "common/error.h"

#define error_set(err, status, ...)      (error_set(err, status, __VA_ARGS__), (status))
#define error_set_os(err, os_error, ...) (error_set_os(err, os_error, __VA_ARGS__), STATUS_IO)

#endif
