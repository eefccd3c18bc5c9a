/*
 * version.h - the version every executable prints and every manifest records.
 */
#ifndef NIGHTJAR_COMMON_VERSION_H
#define NIGHTJAR_COMMON_VERSION_H

#define NIGHTJAR_VERSION "0.1.0"

#endif
