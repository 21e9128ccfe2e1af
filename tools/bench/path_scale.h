/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-bench path --scale: many devices on one svqd, four queues each, all shadowed. What is idle is
 * to cost nothing, and what is busy is to get its share: each of that is a goal, with a verdict.
 */
#ifndef SVQ_BENCH_PATH_SCALE_H
#define SVQ_BENCH_PATH_SCALE_H

#include "fleet.h"

#define SCALE_QUEUES 4u

struct scale {
    struct path_report *report;
    struct guest_end_config config; /* of each guest */
    struct bench_loop *loop;        /* of all that can be busy */
    json_t *json;
    json_t *goals;
};

struct scale_goal {
    const char *name;
    double value;
    double limit;
    bool at_least; /* else at most */
};

/* Says and notes whether it is met. */
void scale_judge(struct scale *scale, const struct scale_goal *goal);

/* Busy devices (path_share.c). Return: false: could not measure, and has said why. */

/* One among all of these, against one on an svqd of its own. */
bool scale_among(struct scale *scale, struct fleet *fleet);
/* Many on a few workers. */
bool scale_shares(struct scale *scale);

#endif
