/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVQ_DAEMON_CPU_LIST_H
#define SVQ_DAEMON_CPU_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

/* Processors, in the order in which they were named. */
struct svq_cpu_list {
    uint16_t cpus[SVQ_MAX_CPU];
    unsigned count;
};

/* "1", "0,2" or "1,4-7": numbers below SVQ_MAX_CPU. Return: false when it is none of these. */
bool svq_cpu_list_parse(const char *text, struct svq_cpu_list *list);

#endif
