/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic int threshold = SVQ_LOG_INFO;

static const char *const level_names[] = {
    [SVQ_LOG_ERROR] = "error",
    [SVQ_LOG_WARNING] = "warning",
    [SVQ_LOG_INFO] = "info",
    [SVQ_LOG_DEBUG] = "debug",
};

/* sd-daemon(3): the journal's priorities, as <syslog.h> numbers them. */
static const char journal_priority[] = {
    [SVQ_LOG_ERROR] = '3',
    [SVQ_LOG_WARNING] = '4',
    [SVQ_LOG_INFO] = '6',
    [SVQ_LOG_DEBUG] = '7',
};

void svq_log_set_level(enum svq_log_level level)
{
    atomic_store_explicit(&threshold, level, memory_order_relaxed);
}

bool svq_log_enabled(enum svq_log_level level)
{
    return (int)level <= atomic_load_explicit(&threshold, memory_order_relaxed);
}

const char *svq_log_level_name(enum svq_log_level level)
{
    return level_names[level];
}

bool svq_log_level_parse(const char *name, enum svq_log_level *level)
{
    for (unsigned i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (!strcmp(name, level_names[i])) {
            *level = i;
            return true;
        }
    }
    return false;
}

void svq_log_line(enum svq_log_level level, const char *tag, const char *format, ...)
{
    char line[1024];
    int used = 0;
    va_list args;

    if (!svq_log_enabled(level))
        return;
    if (getenv("JOURNAL_STREAM"))
        used = snprintf(line, sizeof(line), "<%c>", journal_priority[level]);
    used += snprintf(line + used, sizeof(line) - used, "svqd: %s: %s%.64s%s", level_names[level],
                     tag ? "[" : "", tag ? tag : "", tag ? "] " : "");
    va_start(args, format);
    used += vsnprintf(line + used, sizeof(line) - used, format, args);
    va_end(args);
    /* A cut line still ends in a newline. */
    if (used > (int)sizeof(line) - 1)
        used = sizeof(line) - 1;
    line[used] = '\n';
    /* Nothing useful can be done when stderr is gone. */
    if (write(STDERR_FILENO, line, used + 1) < 0)
        return;
}
