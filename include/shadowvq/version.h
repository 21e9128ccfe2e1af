/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SHADOWVQ_VERSION_H
#define SHADOWVQ_VERSION_H

/* Version of the headers that a program was compiled with (semantic versioning). */
#define SVQ_VERSION_MAJOR 0
#define SVQ_VERSION_MINOR 1
#define SVQ_VERSION_MICRO 0
#define SVQ_VERSION       "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the library that runs, e.g. "0.1.0"; static. */
const char *svq_version(void);

#ifdef __cplusplus
}
#endif
#endif
