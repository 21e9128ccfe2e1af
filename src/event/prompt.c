/* SPDX-License-Identifier: BSD-3-Clause */
#include "event/prompt.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TIMER_SLACK_NS 1000UL /* the system's default is 50 us */
#define SLICE_NS       100000u

/* As in linux/sched/types.h, which does not go together with sched.h. */
struct sched_attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
};

static _Thread_local struct {
    unsigned depth; /* who is in a hurry */
    bool first;     /* with real-time priority */
    bool refused;   /* it is not allowed to have that: not asked for again */
} hurry;

static bool short_slice(void)
{
    struct sched_attributes attributes = {
        .size = sizeof(attributes),
        .policy = SCHED_OTHER,
        .nice = getpriority(PRIO_PROCESS, 0),
        .runtime = SLICE_NS,
    };

    return !syscall(SYS_sched_setattr, 0, &attributes, 0);
}

/* Who has given us another policy means it. */
static bool usual_policy(void)
{
    return sched_getscheduler(0) == SCHED_OTHER;
}

void svq_prompt_start(void)
{
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    if (usual_policy())
        short_slice();
}

void svq_prompt_hurry(void)
{
    const struct sched_param lowest = {.sched_priority = 1};

    if (hurry.depth++ || hurry.refused || !usual_policy())
        return;
    hurry.first = !sched_setscheduler(0, SCHED_RR, &lowest);
    hurry.refused = !hurry.first;
}

void svq_prompt_relax(void)
{
    if (--hurry.depth || !hurry.first)
        return;
    hurry.first = false;
    if (!short_slice())
        sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
}
