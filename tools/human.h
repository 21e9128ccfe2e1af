/* SPDX-License-Identifier: BSD-3-Clause */
/* Numbers for people. */
#ifndef SVQCTL_HUMAN_H
#define SVQCTL_HUMAN_H

#include <stddef.h>
#include <stdint.h>

#define SVQ_HUMAN_SIZE 24

/* Bytes: "0 B", "999 B", "1.50 KiB", "12.3 GiB". */
const char *svq_human_bytes(double bytes, char text[SVQ_HUMAN_SIZE]);
/* Counts and rates: "0", "999", "1.50 k", "12.3 M". */
const char *svq_human_count(double count, char text[SVQ_HUMAN_SIZE]);
/* Microseconds: "431 us", "1.50 ms", "2.00 s". */
const char *svq_human_time(uint64_t microseconds, char text[SVQ_HUMAN_SIZE]);

#endif
