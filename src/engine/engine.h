/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine: worker threads that move descriptors. A lane is one relay together with the four
 * notifications around it; it belongs to one worker, which is the only thread to touch its relay.
 *
 * The control thread changes a lane by handing its worker a function and waiting until the worker
 * has run it between two turns: svq_lane_call(). A turn is bounded (one ring's worth per lane),
 * so that wait is microseconds, and after it nothing of the old state is in use.
 *
 * All functions are for the control thread.
 */
#ifndef SVQ_ENGINE_ENGINE_H
#define SVQ_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

struct svq_relay;
struct svq_engine;
struct svq_lane;

#define SVQ_MAX_CPU 1024

/* How long a worker goes on polling a queue without work, in microseconds; or: */
#define SVQ_POLL_ALWAYS  (-1)
#define SVQ_POLL_DEFAULT (-2) /* for lanes: as the engine does */

struct svq_engine_config {
    unsigned workers;
    int poll_us;          /* 0: sleep as soon as there is no work */
    const uint16_t *cpus; /* worker n runs on cpus[n % cpu_count]; copied */
    unsigned cpu_count;   /* 0: wherever the system puts them */
};

/* Start the workers. Return: 0, -ENOMEM, -EINVAL (a processor that is not there), or -errno. */
int svq_engine_new(const struct svq_engine_config *config, struct svq_engine **out);
/* Stops and joins the workers; every lane must be gone. */
void svq_engine_free(struct svq_engine *engine);

unsigned svq_engine_workers(const struct svq_engine *engine);

/* Readable when a lane has faulted; then call svq_engine_faults(). */
int svq_engine_fault_fd(const struct svq_engine *engine);
/* Call each newly faulted lane's fault function. */
void svq_engine_faults(struct svq_engine *engine);

/**
 * svq_engine_spread() - move a lane from the busiest worker to the one with most time left, if
 * that makes the two more alike. To be called about once a second: what lanes did since the last
 * call is what counts. Pinned lanes stay where they are. Return: a lane was moved.
 */
bool svq_engine_spread(struct svq_engine *engine);

struct svq_lane_config {
    struct svq_relay *relay; /* the lane's while it lives; the caller frees it afterwards */
    int guest_kick;          /* fds stay the caller's and must outlive the lane; -1: none. An */
    /* eventfd is never read, so what it counts is there for the next one */
    int guest_call;
    int backend_kick;
    int backend_call;
    int poll_us; /* or SVQ_POLL_DEFAULT, SVQ_POLL_ALWAYS */
    bool pinned; /* to this worker; else it goes where there are fewest lanes, and may move */
    unsigned worker;
    /* The relay met a broken ring and has stopped. */
    void (*fault)(void *opaque);
    void *opaque;
};

/* It starts moving at once, held or not. Return: 0, -EINVAL (no such worker), or -errno. */
int svq_lane_new(struct svq_engine *engine, const struct svq_lane_config *config,
                 struct svq_lane **out);
/* The same of many at once. Those that could not be made are NULL. Return: 0, or one's error. */
int svq_lanes_new(struct svq_engine *engine, const struct svq_lane_config *configs, unsigned count,
                  struct svq_lane **out);
/*
 * In two steps, of which the second is short: get lanes ready, whose relays may come later, and let
 * them move. One that has been stopped may start again, as long as its fds are what they were.
 */
int svq_lanes_prepare(struct svq_engine *engine, const struct svq_lane_config *configs,
                      unsigned count, struct svq_lane **out);
void svq_lanes_start(struct svq_lane *const *lanes, struct svq_relay *const *relays,
                     unsigned count);
/*
 * The same at the end: when this returns no worker touches their relays. Their fault functions are
 * not called any more. NULL is fine.
 */
void svq_lanes_stop(struct svq_lane *const *lanes, unsigned count);
/* Take it off its worker: when this returns no worker touches its relay or fds. NULL is fine. */
void svq_lane_free(struct svq_lane *lane);
void svq_lanes_free(struct svq_lane *const *lanes, unsigned count);

unsigned svq_lane_worker(const struct svq_lane *lane);
/**
 * svq_lane_pin() - let that worker serve the lane, and no other one from now on; -1: it may move
 * again. Nothing is lost on the way. Return: 0, -EINVAL (no such worker), or -errno: it stays.
 */
int svq_lane_pin(struct svq_lane *lane, int worker);

/* Run fn(relay, arg) on the lane's worker between two turns and wait for it. */
void svq_lane_call(struct svq_lane *lane, void (*fn)(struct svq_relay *relay, void *arg),
                   void *arg);

/* One of many such calls; fn may be NULL. */
struct svq_lane_call {
    struct svq_lane *lane;
    bool turn; /* poll first, whatever notifications say */
    void (*fn)(struct svq_relay *relay, void *arg);
    void *arg;
};

/* Run all of them in this order: each worker is interrupted once, and all work at the same time. */
void svq_lanes_call(struct svq_lane_call *calls, unsigned count);

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
