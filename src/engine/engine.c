/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Workers and lanes. A worker's lanes are hot (polled in turn, notifications suppressed) or armed
 * (both sides asked to notify, waiting in the worker's epoll set). A lane that found nothing for
 * poll-us is armed; a notification makes it hot again. A worker without hot lanes sleeps.
 *
 * Notification fds are watched edge-triggered and never read: an eventfd gives an edge for each
 * write, whatever it counts. That saves a system call, cannot block on an fd that another process
 * may have emptied, and leaves a pending kick in place for whoever serves the ring next.
 */
#include "engine/engine.h"
#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <shadowvq/relay.h>

#define EVENTS 64
/* Turns between looks at the epoll set while some lane is busy. */
#define BUSY_TURNS 32

/* Which of a lane's fds an epoll event belongs to: kept in the low bit of its pointer. */
enum source { SOURCE_KICK = 0, SOURCE_CALL = 1 };

struct svq_lane {
    struct worker *worker;
    struct svq_relay *relay;
    int guest_kick;
    int guest_call;
    int backend_kick;
    int backend_call;

    /* The worker's. */
    struct svq_lane *hot_next, *hot_prev; /* in the worker's ring of hot lanes when hot */
    bool hot;
    bool stopped; /* a fault: never polled again */
    int64_t busy_at;

    /* The control thread's. */
    struct svq_lane *next; /* in the engine's list */
    bool reported;
    void (*fault)(void *opaque);
    void *opaque;

    _Atomic bool faulted; /* worker to control */
};

struct call {
    void (*fn)(struct worker *worker, struct svq_lane *lane, void *arg);
    struct svq_lane *lane;
    void *arg;
};

struct worker {
    struct svq_engine *engine;
    pthread_t thread;
    unsigned lanes; /* control thread's count */
    int epoll;
    int wake;
    struct svq_lane hot; /* head of the ring; not a lane */

    _Atomic(struct call *) call; /* control to worker; NULL once done */
    sem_t done;
    bool stop; /* set inside a call */
};

struct svq_engine {
    unsigned count;
    int64_t poll_ns;
    int fault_event;
    struct svq_lane *lanes;
    struct worker workers[];
};

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- Worker's side -----------------------------------------------------------------------------
 */

static void make_hot(struct worker *w, struct svq_lane *lane)
{
    if (lane->hot || lane->stopped)
        return;
    lane->hot = true;
    lane->hot_next = &w->hot;
    lane->hot_prev = w->hot.hot_prev;
    lane->hot_prev->hot_next = lane;
    w->hot.hot_prev = lane;
    lane->busy_at = now_ns();
    svq_relay_disarm(lane->relay);
}

static void make_cold(struct svq_lane *lane)
{
    if (!lane->hot)
        return;
    lane->hot = false;
    lane->hot_prev->hot_next = lane->hot_next;
    lane->hot_next->hot_prev = lane->hot_prev;
}

static void lane_fault(struct worker *w, struct svq_lane *lane)
{
    make_cold(lane);
    lane->stopped = true;
    /* Release: pairs with the control thread's acquire in svq_engine_faults(). */
    atomic_store_explicit(&lane->faulted, true, memory_order_release);
    svq_notify(w->engine->fault_event);
}

/* One turn of a lane. Return: something moved. */
static bool lane_turn(struct worker *w, struct svq_lane *lane)
{
    unsigned result = svq_relay_poll(lane->relay);

    if (result & SVQ_RELAY_KICK_BACKEND)
        svq_notify(lane->backend_kick);
    if (result & SVQ_RELAY_CALL_GUEST)
        svq_notify(lane->guest_call);
    if (result & SVQ_RELAY_FAULT) {
        lane_fault(w, lane);
        return true;
    }
    return result & SVQ_RELAY_BUSY;
}

/* A hot lane had nothing to do: let it sleep when its grace is over. */
static void lane_idle(struct worker *w, struct svq_lane *lane, int64_t now)
{
    if (lane->guest_kick < 0 || now - lane->busy_at < w->engine->poll_ns)
        return;
    if (svq_relay_arm(lane->relay)) {
        svq_relay_disarm(lane->relay);
        lane->busy_at = now;
    } else {
        make_cold(lane);
    }
}

/* One round over the hot lanes. Return: something moved. */
static bool round_of_turns(struct worker *w)
{
    int64_t now = now_ns();
    struct svq_lane *lane, *next;
    bool busy = false;

    for (lane = w->hot.hot_next; lane != &w->hot; lane = next) {
        next = lane->hot_next;
        if (lane_turn(w, lane)) {
            lane->busy_at = now;
            busy = true;
        } else {
            lane_idle(w, lane, now);
        }
    }
    return busy;
}

static void take_events(struct worker *w, int timeout)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(w->epoll, events, EVENTS, timeout);

    for (int i = 0; i < count; i++) {
        struct svq_lane *lane = (void *)(uintptr_t)(events[i].data.u64 & ~UINT64_C(1));
        uint64_t drain;

        if (!lane) {
            /* Our own wake-up is level-triggered: empty it. */
            if (read(w->wake, &drain, sizeof(drain)) < 0)
                continue;
        } else {
            if ((events[i].data.u64 & 1) == SOURCE_CALL)
                svq_relay_count_call(lane->relay);
            else
                svq_relay_count_kick(lane->relay);
            make_hot(w, lane);
        }
    }
}

static void take_call(struct worker *w)
{
    /* Acquire: pairs with engine_call()'s release; the call's contents come with it. */
    struct call *call = atomic_load_explicit(&w->call, memory_order_acquire);

    if (!call)
        return;
    atomic_store_explicit(&w->call, NULL, memory_order_relaxed);
    call->fn(w, call->lane, call->arg);
    sem_post(&w->done);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    unsigned turns = 0;

    while (!w->stop) {
        bool idle = w->hot.hot_next == &w->hot;
        bool busy = !idle && round_of_turns(w);

        if (idle)
            take_events(w, -1);
        else if (!busy || ++turns % BUSY_TURNS == 0)
            take_events(w, 0);
        take_call(w);
    }
    return NULL;
}

/* ---- Control's side -----------------------------------------------------------------------------
 */

/* Run fn on the worker between two rounds, and wait until it has. */
static void engine_call(struct worker *w, void (*fn)(struct worker *, struct svq_lane *, void *),
                        void *lane, void *arg)
{
    struct call call = {.fn = fn, .lane = lane, .arg = arg};

    /* Release: pairs with take_call()'s acquire. */
    atomic_store_explicit(&w->call, &call, memory_order_release);
    svq_notify(w->wake);
    while (sem_wait(&w->done) < 0 && errno == EINTR)
        ;
}

static void stop_worker(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)lane, (void)arg;
    w->stop = true;
}

static int worker_start(struct svq_engine *engine, struct worker *w)
{
    struct epoll_event event = {.events = EPOLLIN};
    int err;

    w->engine = engine;
    w->hot.hot_next = w->hot.hot_prev = &w->hot;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sem_init(&w->done, 0, 0);
    if (w->epoll < 0 || w->wake < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &event) < 0)
        err = -errno;
    else
        err = -pthread_create(&w->thread, NULL, worker_main, w);
    if (!err)
        return 0;
    if (w->epoll >= 0)
        close(w->epoll);
    if (w->wake >= 0)
        close(w->wake);
    sem_destroy(&w->done);
    return err;
}

int svq_engine_new(unsigned workers, unsigned poll_us, struct svq_engine **out)
{
    struct svq_engine *engine = calloc(1, sizeof(*engine) + workers * sizeof(engine->workers[0]));
    int err;

    if (!engine)
        return -ENOMEM;
    engine->poll_ns = (int64_t)poll_us * 1000;
    engine->fault_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->fault_event < 0) {
        err = -errno;
        free(engine);
        return err;
    }
    for (; engine->count < workers; engine->count++) {
        err = worker_start(engine, &engine->workers[engine->count]);
        if (err) {
            svq_engine_free(engine);
            return err;
        }
    }
    *out = engine;
    return 0;
}

void svq_engine_free(struct svq_engine *engine)
{
    if (!engine)
        return;
    for (unsigned i = 0; i < engine->count; i++) {
        struct worker *w = &engine->workers[i];

        engine_call(w, stop_worker, NULL, NULL);
        pthread_join(w->thread, NULL);
        close(w->epoll);
        close(w->wake);
        sem_destroy(&w->done);
    }
    close(engine->fault_event);
    free(engine);
}

unsigned svq_engine_workers(const struct svq_engine *engine)
{
    return engine->count;
}

int svq_engine_fault_fd(const struct svq_engine *engine)
{
    return engine->fault_event;
}

void svq_engine_faults(struct svq_engine *engine)
{
    uint64_t count;

    if (read(engine->fault_event, &count, sizeof(count)) < 0)
        return;
    for (struct svq_lane *lane = engine->lanes; lane;) {
        struct svq_lane *next = lane->next;

        /* Acquire: pairs with lane_fault()'s release; the relay's fault comes with it. */
        if (!lane->reported && atomic_load_explicit(&lane->faulted, memory_order_acquire)) {
            lane->reported = true;
            lane->fault(lane->opaque);
        }
        lane = next;
    }
}

/* ---- Lanes
 * --------------------------------------------------------------------------------------- */

static int watch(struct svq_lane *lane, int fd, enum source source)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLET,
        .data.u64 = (uintptr_t)lane | source,
    };

    if (fd < 0)
        return 0;
    return epoll_ctl(lane->worker->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void unwatch(struct svq_lane *lane, int fd)
{
    if (fd >= 0)
        epoll_ctl(lane->worker->epoll, EPOLL_CTL_DEL, fd, NULL);
}

/* A full counter must not stop a worker: notifications may be dropped, never waited for. */
static void never_block(int fd)
{
    if (fd >= 0)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void lane_start(struct worker *w, struct svq_lane *lane, void *arg)
{
    int *err = arg;

    *err = watch(lane, lane->guest_kick, SOURCE_KICK);
    if (*err)
        return;
    *err = watch(lane, lane->backend_call, SOURCE_CALL);
    if (*err)
        unwatch(lane, lane->guest_kick);
    else
        make_hot(w, lane);
}

static void lane_stop(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)w, (void)arg;
    make_cold(lane);
    unwatch(lane, lane->guest_kick);
    unwatch(lane, lane->backend_call);
}

static struct worker *least_loaded(struct svq_engine *engine)
{
    struct worker *best = &engine->workers[0];

    for (unsigned i = 1; i < engine->count; i++)
        if (engine->workers[i].lanes < best->lanes)
            best = &engine->workers[i];
    return best;
}

int svq_lane_new(struct svq_engine *engine, const struct svq_lane_config *config,
                 struct svq_lane **out)
{
    struct svq_lane *lane = calloc(1, sizeof(*lane));
    int err;

    if (!lane)
        return -ENOMEM;
    lane->worker = least_loaded(engine);
    lane->relay = config->relay;
    lane->guest_kick = config->guest_kick;
    lane->guest_call = config->guest_call;
    lane->backend_kick = config->backend_kick;
    lane->backend_call = config->backend_call;
    lane->fault = config->fault;
    lane->opaque = config->opaque;
    never_block(lane->guest_call);
    never_block(lane->backend_kick);
    engine_call(lane->worker, lane_start, lane, &err);
    if (err) {
        free(lane);
        return err;
    }
    lane->worker->lanes++;
    lane->next = engine->lanes;
    engine->lanes = lane;
    *out = lane;
    return 0;
}

void svq_lane_free(struct svq_lane *lane)
{
    struct svq_lane **link;

    if (!lane)
        return;
    engine_call(lane->worker, lane_stop, lane, NULL);
    lane->worker->lanes--;
    for (link = &lane->worker->engine->lanes; *link != lane; link = &(*link)->next)
        ;
    *link = lane->next;
    free(lane);
}

unsigned svq_lane_worker(const struct svq_lane *lane)
{
    return lane->worker - lane->worker->engine->workers;
}

struct relay_call {
    void (*fn)(struct svq_relay *relay, void *arg);
    void *arg;
};

static void run_relay_call(struct worker *w, struct svq_lane *lane, void *arg)
{
    struct relay_call *call = arg;

    (void)w;
    call->fn(lane->relay, call->arg);
}

void svq_lane_call(struct svq_lane *lane, void (*fn)(struct svq_relay *relay, void *arg), void *arg)
{
    struct relay_call call = {.fn = fn, .arg = arg};

    engine_call(lane->worker, run_relay_call, lane, &call);
}

static void run_turn(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)arg;
    if (lane->stopped)
        return;
    make_hot(w, lane);
    if (lane_turn(w, lane))
        lane->busy_at = now_ns();
}

void svq_lane_turn(struct svq_lane *lane)
{
    engine_call(lane->worker, run_turn, lane, NULL);
}

static void set_guest_call(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)w;
    lane->guest_call = *(int *)arg;
}

void svq_lane_set_guest_call(struct svq_lane *lane, int fd)
{
    never_block(fd);
    engine_call(lane->worker, set_guest_call, lane, &fd);
}

struct kick_change {
    int fd;
    int err;
};

static void set_guest_kick(struct worker *w, struct svq_lane *lane, void *arg)
{
    struct kick_change *change = arg;

    change->err = watch(lane, change->fd, SOURCE_KICK);
    /* In any case: the caller closes the old one, and its number may become another lane's. */
    unwatch(lane, lane->guest_kick);
    lane->guest_kick = change->err ? -1 : change->fd;
    make_hot(w, lane); /* a kick may have gone to the old one */
}

int svq_lane_set_guest_kick(struct svq_lane *lane, int fd)
{
    struct kick_change change = {.fd = fd};

    engine_call(lane->worker, set_guest_kick, lane, &change);
    return change.err;
}
