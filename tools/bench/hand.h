/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread on another processor that takes a relay's turns when it is told to: the rings' lines
 * then move between two cores, as they do between a worker and the ends that it serves.
 */
#ifndef SVQ_BENCH_HAND_H
#define SVQ_BENCH_HAND_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

struct bench_hand;

/*
 * Takes half a second: it finds out how far the other processor is from the caller's, which is
 * where the caller has to stay. Return: 0 or -errno; -EINVAL: no such processor for us.
 */
int bench_hand_new(int cpu, struct bench_hand **out);
void bench_hand_free(struct bench_hand *hand);

/*
 * How long it takes to have nothing done over there, in nanoseconds: the way there and back, which
 * is longer when a virtual machine's host has moved one of the processors; see hop.h.
 */
double bench_hand_distance(struct bench_hand *hand);
/* What is usual, and is it that now? */
double bench_hand_usual(const struct bench_hand *hand);
bool bench_hand_near(struct bench_hand *hand);
/* Wait until it is, but not for ever. */
void bench_hand_wait(struct bench_hand *hand);

/* A turn of the relay over there. @ticks: what it took. Return: what svq_relay_poll() did. */
unsigned bench_hand_poll(struct bench_hand *hand, struct svq_relay *relay, uint64_t *ticks);

#endif
