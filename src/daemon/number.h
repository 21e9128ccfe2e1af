/* SPDX-License-Identifier: BSD-3-Clause */
/* Numbers that people write. Strict: no sign, no blanks, no trailing text, nothing out of range. */
#ifndef SVQ_DAEMON_NUMBER_H
#define SVQ_DAEMON_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

/* Decimal digits, at most `max`. */
bool svq_number_parse(const char *text, uint64_t max, uint64_t *out);

/* Microseconds to poll for, or "always"; SVQ_POLL_US_RANGE says so in messages. */
#define SVQ_MAX_POLL_US   1000000
#define SVQ_POLL_US_RANGE "a number between 0 and 1000000, or always"

bool svq_poll_us_parse(const char *text, int *out);
/* A JSON number or such a text. */
bool svq_poll_us_convert(const json_t *value, int *out);

/* What a time may be, in seconds; SVQ_SECONDS_RANGE says so in messages. */
#define SVQ_SECONDS_MIN   0.001
#define SVQ_SECONDS_MAX   86400.0
#define SVQ_SECONDS_RANGE "seconds between 0.001 and 86400"

/*
 * Seconds with an optional decimal fraction ("5", "0.25"), to nanoseconds.
 * @zero: 0 is good as well
 */
bool svq_seconds_parse(const char *text, bool zero, int64_t *nanoseconds);
bool svq_seconds_convert(double seconds, bool zero, int64_t *nanoseconds);

#endif
