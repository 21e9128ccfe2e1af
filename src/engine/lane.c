/* SPDX-License-Identifier: BSD-3-Clause */
/* Lanes come, change, move between workers, and go: all from the control thread. */
#include "engine/internal.h"
#include "event/fiber.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* Calls that are put together on the stack. */
#define TOGETHER 64u

/* Which of a lane's fds an epoll event belongs to: kept in the low bit of its pointer. */
enum source { SOURCE_KICK = 0, SOURCE_CALL = 1 };

/* ---- On the worker ------------------------------------------------------------------------------
 */

static int watch(const struct worker *w, struct svq_lane *lane, int fd, enum source source)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLET,
        .data.u64 = (uintptr_t)lane | source,
    };

    if (fd < 0)
        return 0;
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void unwatch(const struct worker *w, int fd)
{
    if (fd >= 0)
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static void lane_join(struct worker *w, struct svq_lane *lane, void *arg)
{
    int *err = arg;

    *err = watch(w, lane, lane->guest_kick, SOURCE_KICK);
    if (*err)
        return;
    *err = watch(w, lane, lane->backend_call, SOURCE_CALL);
    if (*err)
        unwatch(w, lane->guest_kick);
}

static void lane_start(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)arg;
    lane->started = true;
    w->served++;
    worker_make_hot(w, lane);
}

static void lane_join_and_start(struct worker *w, struct svq_lane *lane, void *arg)
{
    int *err = arg;

    lane_join(w, lane, err);
    if (!*err)
        lane_start(w, lane, NULL);
}

static void lane_stop(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)arg;
    if (!lane->started)
        return;
    lane->started = false;
    w->served--;
    worker_make_cold(w, lane);
}

static void lane_leave(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)arg;
    lane_stop(w, lane, NULL);
    unwatch(w, lane->guest_kick);
    unwatch(w, lane->backend_call);
}

static void run_turn(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)arg;
    if (lane->stopped)
        return;
    worker_make_hot(w, lane);
    if (worker_turn(w, lane))
        lane->busy_at = engine_now();
}

static void run_lane_call(struct worker *w, struct svq_lane *lane, void *arg)
{
    const struct svq_lane_call *call = arg;

    if (call->turn)
        run_turn(w, lane, NULL);
    if (call->fn)
        call->fn(lane->relay, call->arg);
}

static void set_guest_call(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)w;
    lane->guest_call = *(int *)arg;
}

struct kick_change {
    int fd;
    int err;
};

static void set_guest_kick(struct worker *w, struct svq_lane *lane, void *arg)
{
    struct kick_change *change = arg;

    change->err = watch(w, lane, change->fd, SOURCE_KICK);
    /* In any case: the caller closes the old one, and its number may become another lane's. */
    unwatch(w, lane->guest_kick);
    lane->guest_kick = change->err ? -1 : change->fd;
    worker_make_hot(w, lane); /* a kick may have gone to the old one */
}

/* ---- A lane's life ------------------------------------------------------------------------------
 */

/* A full counter must not stop a worker: notifications may be dropped, never waited for. */
static void never_block(int fd)
{
    int flags = fd >= 0 ? fcntl(fd, F_GETFL) : -1;

    if (flags >= 0 && !(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static struct worker *least_lanes(struct svq_engine *engine)
{
    struct worker *best = &engine->workers[0];

    for (unsigned i = 1; i < engine->count; i++)
        if (engine->workers[i].lanes < best->lanes)
            best = &engine->workers[i];
    return best;
}

static int64_t grace(const struct svq_engine *engine, int poll_us)
{
    if (poll_us == SVQ_POLL_DEFAULT)
        return engine->poll_ns;
    return engine_grace(poll_us);
}

static int make_lane(struct svq_engine *engine, const struct svq_lane_config *config,
                     struct svq_lane **out)
{
    struct svq_lane *lane;

    *out = NULL;
    if (config->pinned && config->worker >= engine->count)
        return -EINVAL;
    lane = calloc(1, sizeof(*lane));
    if (!lane)
        return -ENOMEM;
    lane->pinned = config->pinned;
    lane->worker = lane->pinned ? &engine->workers[config->worker] : least_lanes(engine);
    lane->relay = config->relay;
    lane->guest_kick = config->guest_kick;
    lane->guest_call = config->guest_call;
    lane->backend_kick = config->backend_kick;
    lane->backend_call = config->backend_call;
    lane->poll_ns = grace(engine, config->poll_us);
    lane->fault = config->fault;
    lane->opaque = config->opaque;
    never_block(lane->guest_call);
    never_block(lane->backend_kick);
    lane->worker->lanes++;
    lane->next = engine->lanes;
    engine->lanes = lane;
    *out = lane;
    return 0;
}

/* One that its worker does not have. */
static void unmake_lane(struct svq_lane *lane)
{
    struct svq_lane **link;

    lane->worker->lanes--;
    for (link = &lane->worker->engine->lanes; *link != lane; link = &(*link)->next)
        ;
    *link = lane->next;
    free(lane);
}

/* As many as there is room for on the stack. */
static int make_lanes(struct svq_engine *engine, const struct svq_lane_config *configs,
                      unsigned count, worker_fn *fn, struct svq_lane **out)
{
    struct call calls[TOGETHER];
    int errs[TOGETHER];
    unsigned made = 0;
    int err = 0;

    for (unsigned i = 0; i < count; i++) {
        errs[i] = make_lane(engine, &configs[i], &out[i]);
        if (!errs[i])
            calls[made++] = (struct call){.fn = fn, .lane = out[i], .arg = &errs[i]};
    }
    engine_calls(engine, calls, made);
    for (unsigned i = 0; i < count; i++) {
        if (!errs[i])
            continue;
        err = errs[i];
        if (out[i])
            unmake_lane(out[i]);
        out[i] = NULL;
    }
    return err;
}

static int make_all(struct svq_engine *engine, const struct svq_lane_config *configs,
                    unsigned count, worker_fn *fn, struct svq_lane **out)
{
    int err = 0;

    for (unsigned i = 0; i < count; i += TOGETHER) {
        unsigned n = count - i < TOGETHER ? count - i : TOGETHER;
        int ret = make_lanes(engine, &configs[i], n, fn, &out[i]);

        err = err ? err : ret;
    }
    return err;
}

int svq_lanes_new(struct svq_engine *engine, const struct svq_lane_config *configs, unsigned count,
                  struct svq_lane **out)
{
    return make_all(engine, configs, count, lane_join_and_start, out);
}

int svq_lanes_prepare(struct svq_engine *engine, const struct svq_lane_config *configs,
                      unsigned count, struct svq_lane **out)
{
    return make_all(engine, configs, count, lane_join, out);
}

int svq_lane_new(struct svq_engine *engine, const struct svq_lane_config *config,
                 struct svq_lane **out)
{
    return svq_lanes_new(engine, config, 1, out);
}

/* The same of all, as many at once as there is room for on the stack; NULL is passed over. */
static void on_workers(struct svq_lane *const *lanes, unsigned count, worker_fn *fn)
{
    struct call calls[TOGETHER];

    for (unsigned i = 0; i < count;) {
        unsigned n = 0;

        for (; i < count && n < TOGETHER; i++)
            if (lanes[i])
                calls[n++] = (struct call){.fn = fn, .lane = lanes[i]};
        if (n)
            engine_calls(calls[0].lane->worker->engine, calls, n);
    }
}

void svq_lanes_start(struct svq_lane *const *lanes, struct svq_relay *const *relays, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        /* No worker looks at one that does not move. */
        lanes[i]->relay = relays[i];
        lanes[i]->stopped = false;
        lanes[i]->reported = false;
        atomic_store_explicit(&lanes[i]->faulted, false, memory_order_relaxed);
    }
    on_workers(lanes, count, lane_start);
}

void svq_lanes_stop(struct svq_lane *const *lanes, unsigned count)
{
    on_workers(lanes, count, lane_stop);
    /* A fault of the last turn is left to those who have the relay now. */
    for (unsigned i = 0; i < count; i++)
        if (lanes[i])
            lanes[i]->reported = true;
}

void svq_lanes_free(struct svq_lane *const *lanes, unsigned count)
{
    on_workers(lanes, count, lane_leave);
    for (unsigned i = count; i--;)
        if (lanes[i])
            unmake_lane(lanes[i]);
}

void svq_lane_free(struct svq_lane *lane)
{
    svq_lanes_free(&lane, 1);
}

/* ---- Its worker ---------------------------------------------------------------------------------
 */

unsigned svq_lane_worker(const struct svq_lane *lane)
{
    return lane->worker - lane->worker->engine->workers;
}

/*
 * The notifications of a moment without a worker are not lost: to be watched again gives an edge
 * for what an eventfd counts, and the lane starts hot.
 */
int lane_move(struct svq_lane *lane, struct worker *to)
{
    struct worker *from = lane->worker;
    worker_fn *arrive = lane->started ? lane_join_and_start : lane_join;
    int err;

    if (from == to)
        return 0;
    engine_call(from, lane_leave, lane, NULL);
    engine_call(to, arrive, lane, &err);
    if (err) {
        int back; /* what was watched a moment ago can be watched again */

        engine_call(from, arrive, lane, &back);
        return err;
    }
    from->lanes--;
    to->lanes++;
    lane->worker = to;
    return 0;
}

int svq_lane_pin(struct svq_lane *lane, int worker)
{
    struct svq_engine *engine = lane->worker->engine;
    int err = 0;

    if (worker >= (int)engine->count)
        return -EINVAL;
    if (worker >= 0)
        err = lane_move(lane, &engine->workers[worker]);
    if (!err)
        lane->pinned = worker >= 0;
    return err;
}

/* ---- Calls --------------------------------------------------------------------------------------
 */

void svq_lanes_call(struct svq_lane_call *calls, unsigned count)
{
    struct call each[TOGETHER];

    for (unsigned i = 0; i < count;) {
        unsigned n = 0;

        for (; i < count && n < TOGETHER; i++, n++)
            each[n] = (struct call){.fn = run_lane_call, .lane = calls[i].lane, .arg = &calls[i]};
        engine_calls(each[0].lane->worker->engine, each, n);
    }
}

void svq_lane_call(struct svq_lane *lane, void (*fn)(struct svq_relay *relay, void *arg), void *arg)
{
    svq_lanes_call(&(struct svq_lane_call){.lane = lane, .fn = fn, .arg = arg}, 1);
}

void svq_lane_turn(struct svq_lane *lane)
{
    svq_lanes_call(&(struct svq_lane_call){.lane = lane, .turn = true}, 1);
}

void svq_lane_set_guest_call(struct svq_lane *lane, int fd)
{
    never_block(fd);
    engine_call(lane->worker, set_guest_call, lane, &fd);
}

int svq_lane_set_guest_kick(struct svq_lane *lane, int fd)
{
    struct kick_change change = {.fd = fd};

    engine_call(lane->worker, set_guest_kick, lane, &change);
    return change.err;
}
