/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines of the daemon, on stderr: "svqd: LEVEL: [TAG] text". Under systemd the level also goes
 * out as the journal's "<N>" prefix. Any thread; one write(2) per line.
 */
#ifndef SVQ_BASE_LOG_H
#define SVQ_BASE_LOG_H

#include <stdbool.h>

enum svq_log_level { SVQ_LOG_ERROR, SVQ_LOG_WARNING, SVQ_LOG_INFO, SVQ_LOG_DEBUG };

/* Lines above this level are dropped. Set once, before threads start. Default: info. */
void svq_log_set_level(enum svq_log_level level);
bool svq_log_enabled(enum svq_log_level level);

/* Name of a level as on the command line, and back (false: no such level). */
const char *svq_log_level_name(enum svq_log_level level);
bool svq_log_level_parse(const char *name, enum svq_log_level *level);

/* @tag: a device's id, or NULL for the daemon itself. */
void svq_log_line(enum svq_log_level level, const char *tag, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define svq_error(tag, ...)   svq_log_line(SVQ_LOG_ERROR, tag, __VA_ARGS__)
#define svq_warning(tag, ...) svq_log_line(SVQ_LOG_WARNING, tag, __VA_ARGS__)
#define svq_info(tag, ...)    svq_log_line(SVQ_LOG_INFO, tag, __VA_ARGS__)
#define svq_debug(tag, ...)                                \
    do {                                                   \
        if (svq_log_enabled(SVQ_LOG_DEBUG))                \
            svq_log_line(SVQ_LOG_DEBUG, tag, __VA_ARGS__); \
    } while (0)

#endif
