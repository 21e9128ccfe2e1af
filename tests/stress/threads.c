/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Three threads, or two and an engine. Whoever has nothing to do either spins for a while or goes
 * to sleep at once: asks for a notification, looks again, and waits on an eventfd. Short random
 * delays lie between the steps, so that each falls into each gap of another's.
 */
#include "stress.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"

#define LOOK_MS 50 /* how often the watchdog looks */

enum where { BUSY, ASKING, SLEEPING, LEFT };

struct side {
    _Alignas(128) pthread_t thread;
    struct cast *cast;
    struct kit_rng rng;
    int event;
    uint64_t sleeps;
    uint64_t notified; /* notifications that this side sent */
    _Atomic enum where where;
};

struct cast {
    struct world *world;
    const struct stress_options *options;
    uint64_t rounds;
    struct side side[ACTORS];
    int call; /* back-end to relay, where that is not the same eventfd as the guest's kick */
    struct svq_engine *engine;
    struct svq_lane *lane;
    sem_t finished;
    _Atomic bool stop;
};

/* ---- Delays and events ------------------------------------------------------------------------
 */

static void delay(struct side *side)
{
    unsigned spins;

    if (kit_percent(&side->rng, 50))
        return;
    spins = kit_below(&side->rng, 1u << kit_below(&side->rng, 9));
    while (spins--)
        __asm__ volatile("" : : : "memory");
    if (!kit_below(&side->rng, 128))
        sched_yield();
}

static int new_event(bool blocking)
{
    int fd = eventfd(0, EFD_CLOEXEC | (blocking ? 0 : EFD_NONBLOCK));

    kit_require(fd >= 0);
    return fd;
}

static void notify(struct side *side, int fd)
{
    uint64_t one = 1;

    delay(side);
    side->notified++;
    kit_require(write(fd, &one, sizeof(one)) == sizeof(one));
}

static void wait_for(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t count;

    /* One that an engine writes does not block. */
    while (read(fd, &count, sizeof(count)) < 0) {
        kit_require(errno == EAGAIN || errno == EINTR);
        poll(&p, 1, -1);
    }
}

static bool over(const struct cast *c)
{
    return c->stop || c->world->trouble;
}

/* Something to do may turn up soon. */
static bool spin(struct side *side, bool (*pending)(struct world *world))
{
    struct cast *c = side->cast;

    if (kit_percent(&side->rng, c->options->sleep))
        return false;
    for (unsigned spins = 0; spins < 500; spins++)
        if (pending(c->world) || over(c))
            return true;
    sched_yield();
    return false;
}

/* Nothing to do. */
static void idle(struct side *side, void (*ask)(struct world *world, bool on),
                 bool (*pending)(struct world *world))
{
    struct cast *c = side->cast;

    if (spin(side, pending))
        return;
    delay(side);
    side->where = ASKING;
    ask(c->world, true);
    if (!pending(c->world) && !over(c)) {
        delay(side);
        side->where = SLEEPING;
        side->sleeps++;
        wait_for(side->event);
    }
    side->where = BUSY;
    delay(side);
    ask(c->world, false);
}

/* ---- Three threads ----------------------------------------------------------------------------
 */

static void *guest_main(void *arg)
{
    struct side *side = arg;
    struct cast *c = side->cast;
    int kick = c->side[RELAY].event;

    while (c->world->done < c->rounds && !over(c)) {
        unsigned reaped = guest_reap(c->world);

        delay(side);
        if (guest_add(c->world, c->rounds)) {
            if (guest_publish(c->world))
                notify(side, kick);
        } else if (!reaped) {
            idle(side, guest_ask, guest_pending);
        }
    }
    side->where = LEFT;
    sem_post(&c->finished);
    return NULL;
}

static void *backend_main(void *arg)
{
    struct side *side = arg;
    struct cast *c = side->cast;

    while (!over(c)) {
        unsigned taken = backend_take(c->world);

        delay(side);
        if (backend_complete(c->world)) {
            if (backend_publish(c->world))
                notify(side, c->call);
        } else if (!taken) {
            idle(side, backend_ask, backend_pending);
        }
    }
    side->where = LEFT;
    return NULL;
}

static void relay_idles(struct side *side)
{
    struct cast *c = side->cast;

    side->where = ASKING;
    if (!svq_relay_arm(c->world->relay) && !over(c)) {
        delay(side);
        side->where = SLEEPING;
        side->sleeps++;
        wait_for(side->event);
    }
    side->where = BUSY;
    delay(side);
    svq_relay_disarm(c->world->relay);
}

static void *relay_main(void *arg)
{
    struct side *side = arg;
    struct cast *c = side->cast;
    unsigned patience = 0;

    while (!over(c)) {
        unsigned bits = relay_poll(c->world);

        delay(side);
        if (bits & SVQ_RELAY_KICK_BACKEND)
            notify(side, c->side[BACKEND].event);
        if (bits & SVQ_RELAY_CALL_GUEST)
            notify(side, c->side[GUEST].event);
        if (bits & SVQ_RELAY_BUSY) {
            patience = kit_percent(&side->rng, c->options->sleep) ? 0 : 200;
        } else if (patience) {
            patience--;
        } else {
            relay_idles(side);
        }
    }
    side->where = LEFT;
    return NULL;
}

/* ---- An engine instead ------------------------------------------------------------------------
 */

static void lane_fault(void *opaque)
{
    struct world *w = opaque;
    const char *reason = NULL;

    svq_relay_fault(w->relay, &reason);
    world_broken(w, reason ? reason : "the lane stopped");
}

static void start_engine(struct cast *c)
{
    static const int grace[8] = {0, 0, 1, 1, 2, 3, 5, 10};
    struct svq_lane_config config = {
        .poll_us = SVQ_POLL_DEFAULT,
        .relay = c->world->relay,
        .guest_kick = c->side[RELAY].event,
        .guest_call = c->side[GUEST].event,
        .backend_kick = c->side[BACKEND].event,
        .backend_call = c->call,
        .fault = lane_fault,
        .opaque = c->world,
    };
    struct svq_engine_config engine = {.workers = 1};

    /*
     * Without grace it arms right after it has moved something, when the others have yet to find
     * that. Graces of some microseconds end while they are at it.
     */
    engine.poll_us = grace[kit_below(&c->side[RELAY].rng, 8)];
    kit_require(svq_engine_new(&engine, &c->engine) == 0);
    kit_require(svq_lane_new(c->engine, &config, &c->lane) == 0);
}

static void stop_engine(struct cast *c)
{
    struct svq_relay_stats stats;

    svq_lane_free(c->lane);
    svq_engine_free(c->engine);
    svq_relay_stats(c->world->relay, &stats);
    c->side[RELAY].sleeps = stats.guest_kicks + stats.backend_calls;
    c->side[RELAY].notified = stats.backend_kicks + stats.guest_calls;
}

/* ---- The cast ----------------------------------------------------------------------------------
 */

static void start(struct cast *c, struct world *w, uint64_t rounds,
                  const struct stress_options *options)
{
    static void *(*const mains[ACTORS])(void *arg) = {
        [GUEST] = guest_main, [RELAY] = relay_main, [BACKEND] = backend_main};

    *c = (struct cast){.world = w, .options = options, .rounds = rounds};
    kit_require(!sem_init(&c->finished, 0, 0));
    for (unsigned i = 0; i < ACTORS; i++) {
        c->side[i].cast = c;
        c->side[i].rng.state = w->config.seed * ACTORS + i;
        c->side[i].event = new_event(!options->engine);
    }
    c->call = options->engine ? new_event(false) : c->side[RELAY].event;
    if (options->engine)
        start_engine(c);
    for (unsigned i = 0; i < ACTORS; i++)
        if (i != RELAY || !options->engine)
            kit_require(!pthread_create(&c->side[i].thread, NULL, mains[i], &c->side[i]));
}

static void stop(struct cast *c, struct tally *tally)
{
    uint64_t one = 1;

    c->stop = true;
    for (unsigned i = 0; i < ACTORS; i++)
        kit_require(write(c->side[i].event, &one, sizeof(one)) == sizeof(one));
    for (unsigned i = 0; i < ACTORS; i++)
        if (i != RELAY || !c->engine)
            kit_require(!pthread_join(c->side[i].thread, NULL));
    if (c->engine)
        stop_engine(c);
    for (unsigned i = 0; i < ACTORS; i++) {
        tally->sleeps[i] += c->side[i].sleeps;
        tally->notified[i] += c->side[i].notified;
        close(c->side[i].event);
    }
    if (c->engine)
        close(c->call);
    sem_destroy(&c->finished);
}

/* Until the guest has finished. Return: false when something is broken or nothing moves. */
static bool watch(struct cast *c)
{
    struct world *w = c->world;
    unsigned looks = c->options->stall_seconds * 1000 / LOOK_MS, left = looks;
    uint64_t done = 0;

    while (left--) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += LOOK_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!sem_timedwait(&c->finished, &until))
            return !w->trouble;
        if (c->engine)
            svq_engine_faults(c->engine);
        if (w->trouble)
            return false;
        if (w->done != done)
            left = looks;
        done = w->done;
    }
    return false;
}

/* What an eventfd counts, without reading it. */
static void dump_event(const char *name, int fd, FILE *out)
{
    char path[64], line[128];
    FILE *info;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    info = fopen(path, "re");
    while (info && fgets(line, sizeof(line), info)) {
        unsigned long long count;

        if (sscanf(line, "eventfd-count: %llx", &count) == 1)
            fprintf(out, "  eventfd of the %s: %llu\n", name, count);
    }
    if (info)
        fclose(info);
}

static void dump(struct cast *c, FILE *out)
{
    static const char *const names[ACTORS] = {"guest", "relay", "back-end"};
    static const char *const places[] = {"busy", "asking", "asleep", "gone"};

    for (unsigned i = 0; i < ACTORS; i++) {
        if (i != RELAY || !c->engine)
            fprintf(out, "  %s is %s\n", names[i], places[c->side[i].where]);
        dump_event(names[i], c->side[i].event, out);
    }
    if (c->engine)
        dump_event("back-end's calls", c->call, out);
    world_dump(c->world, out);
}

const char stress_program[] = "stress-threads";

bool stress_run(struct world *w, uint64_t rounds, const struct stress_options *options,
                struct tally *tally, FILE *out)
{
    struct cast *c = NULL;

    kit_require(!posix_memalign((void **)&c, 128, sizeof(*c)));
    start(c, w, rounds, options);
    if (!watch(c)) {
        dump(c, out);
        return false;
    }
    stop(c, tally);
    tally->rounds += w->done;
    free(c);
    return true;
}
