/* SPDX-License-Identifier: BSD-3-Clause */
/* Workers start and stop; the control thread calls them; their faults. */
#include "engine/internal.h"
#include "base/notify.h"
#include "event/fiber.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* The longest wait between two looks of a worker that polls. */
#define LONGEST_PAUSE_NS 150
/* Before the control thread sleeps until a worker has run its calls. */
#define EAGER_NS 10000

int64_t engine_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- Calls --------------------------------------------------------------------------------------
 */

static void post(struct worker *w, struct call *call)
{
    /* A worker that polls finds it by itself; see sleep_until_called(). */
    atomic_store(&w->call, call);
    if (atomic_load(&w->asleep))
        svq_notify(w->wake);
}

/*
 * A worker that polls answers within a turn or two, sooner than we would have gone to sleep and
 * come back; one that shares our processor cannot, and is not kept from it for longer.
 */
static void wait_done(struct worker *w)
{
    int64_t limit = engine_now() + EAGER_NS;

    do {
        if (!sem_trywait(&w->done))
            return;
        worker_relax();
    } while (engine_now() < limit);
    while (sem_wait(&w->done) < 0 && errno == EINTR)
        ;
}

void engine_call(struct worker *w, worker_fn *fn, struct svq_lane *lane, void *arg)
{
    struct call call = {.fn = fn, .lane = lane, .arg = arg};

    post(w, &call);
    wait_done(w);
}

void engine_calls(struct svq_engine *engine, struct call *calls, unsigned count)
{
    for (unsigned i = 0; i < engine->count; i++)
        engine->workers[i].last = &engine->workers[i].first;
    for (unsigned i = 0; i < count; i++) {
        struct worker *w = calls[i].lane->worker;

        *w->last = &calls[i];
        w->last = &calls[i].next;
    }
    for (unsigned i = 0; i < engine->count; i++) {
        *engine->workers[i].last = NULL;
        if (engine->workers[i].first)
            post(&engine->workers[i], engine->workers[i].first);
    }
    for (unsigned i = 0; i < engine->count; i++)
        if (engine->workers[i].first)
            wait_done(&engine->workers[i]);
}

static void stop_worker(struct worker *w, struct svq_lane *lane, void *arg)
{
    (void)lane, (void)arg;
    w->stop = true;
}

/* ---- From start to end --------------------------------------------------------------------------
 */

static int spawn(struct worker *w, const struct svq_engine_config *config, unsigned index)
{
    pthread_attr_t attr;
    cpu_set_t cpus;
    int err;

    err = -pthread_attr_init(&attr);
    if (err)
        return err;
    if (config->cpu_count) {
        CPU_ZERO(&cpus);
        CPU_SET(config->cpus[index % config->cpu_count], &cpus);
        err = -pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    }
    if (!err)
        err = -pthread_create(&w->thread, &attr, worker_main, w);
    pthread_attr_destroy(&attr);
    return err;
}

static int worker_start(struct svq_engine *engine, const struct svq_engine_config *config,
                        unsigned index)
{
    struct worker *w = &engine->workers[index];
    struct epoll_event event = {.events = EPOLLIN};
    int err;

    w->engine = engine;
    w->hot.hot_next = w->hot.hot_prev = &w->hot;
    w->pause = 1;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sem_init(&w->done, 0, 0);
    if (w->epoll < 0 || w->wake < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &event) < 0)
        err = -errno;
    else
        err = spawn(w, config, index);
    if (!err)
        return 0;
    if (w->epoll >= 0)
        close(w->epoll);
    if (w->wake >= 0)
        close(w->wake);
    sem_destroy(&w->done);
    return err;
}

int64_t engine_grace(int poll_us)
{
    return poll_us == SVQ_POLL_ALWAYS ? SVQ_FOREVER : poll_us * SVQ_USEC;
}

int svq_engine_new(const struct svq_engine_config *config, struct svq_engine **out)
{
    struct svq_engine *engine;
    int err;

    engine = calloc(1, sizeof(*engine) + config->workers * sizeof(engine->workers[0]));
    if (!engine)
        return -ENOMEM;
    engine->poll_ns = engine_grace(config->poll_us);
    engine->longest_pause = worker_pauses_in(LONGEST_PAUSE_NS);
    engine->spread_at = engine_now();
    engine->fault_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->fault_event < 0) {
        err = -errno;
        free(engine);
        return err;
    }
    for (; engine->count < config->workers; engine->count++) {
        err = worker_start(engine, config, engine->count);
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

/* ---- Faults -------------------------------------------------------------------------------------
 */

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
