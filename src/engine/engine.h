/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine: worker threads that move descriptors. A lane is one relay together with the four
 * notifications around it; it belongs to one worker, which is the only thread to touch its relay.
 *
 * The control thread changes a lane by handing its worker a function and waiting until the worker
 * has run it between two turns: svq_engine_call(). A turn is bounded (one ring's worth per lane),
 * so that wait is microseconds, and after it nothing of the old state is in use.
 */
#ifndef SVQ_ENGINE_ENGINE_H
#define SVQ_ENGINE_ENGINE_H

#include <stdint.h>

struct svq_relay;
struct svq_engine;
struct svq_lane;

/**
 * svq_engine_new() - start the workers.
 * @poll_us: microseconds a worker goes on polling a queue that has no work before it arms
 *           notifications and lets it sleep
 */
int svq_engine_new(unsigned workers, unsigned poll_us, struct svq_engine **out);
/* Stops and joins the workers; every lane must be gone. */
void svq_engine_free(struct svq_engine *engine);

unsigned svq_engine_workers(const struct svq_engine *engine);

/* Readable when a lane has faulted; then call svq_engine_faults(). */
int svq_engine_fault_fd(const struct svq_engine *engine);
/* Call each newly faulted lane's fault function, on the control thread. */
void svq_engine_faults(struct svq_engine *engine);

struct svq_lane_config {
    struct svq_relay *relay; /* the lane's while it lives; the caller frees it afterwards */
    int guest_kick;          /* fds stay the caller's and must outlive the lane; -1: none. An */
    /* eventfd is never read, so what it counts is there for the next one */
    int guest_call;
    int backend_kick;
    int backend_call;
    /* Control thread: the relay met a broken ring and has stopped. */
    void (*fault)(void *opaque);
    void *opaque;
};

/* Put a lane on the worker that has fewest; it starts moving at once, held or not. */
int svq_lane_new(struct svq_engine *engine, const struct svq_lane_config *config,
                 struct svq_lane **out);
/* Take it off its worker: when this returns no worker touches its relay or fds. */
void svq_lane_free(struct svq_lane *lane);

unsigned svq_lane_worker(const struct svq_lane *lane);

/* Run fn(relay, arg) on the lane's worker between two turns and wait for it. */
void svq_lane_call(struct svq_lane *lane, void (*fn)(struct svq_relay *relay, void *arg),
                   void *arg);

/* Poll now, whatever notifications say, and wait for that one turn. */
void svq_lane_turn(struct svq_lane *lane);

/* The guest's call fd changed (interrupt masking does that often); -1: none. */
void svq_lane_set_guest_call(struct svq_lane *lane, int fd);
/*
 * The guest's kick fd changed; -1: the guest sends none, so the lane polls and never sleeps. So it
 * does after an error: that fd cannot be waited for.
 */
int svq_lane_set_guest_kick(struct svq_lane *lane, int fd);

#endif
