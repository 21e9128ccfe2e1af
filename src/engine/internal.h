/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Workers and lanes from the inside.
 *
 *   worker.c  the worker threads: turns, polling, sleep
 *   engine.c  workers start and stop; calls to them; faults
 *   lane.c    lanes come, go and move
 *   spread.c  which lane is moved when workers differ in load
 */
#ifndef SVQ_ENGINE_INTERNAL_H
#define SVQ_ENGINE_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "engine/engine.h"

/* Of this many rounds, the turns of one are timed. */
#define SAMPLE_ROUNDS 64

struct worker;

struct svq_lane {
    struct worker *worker;
    struct svq_relay *relay;
    int guest_kick;
    int guest_call;
    int backend_kick;
    int backend_call;
    int64_t poll_ns; /* SVQ_FOREVER: it never sleeps */

    /* The worker's. */
    struct svq_lane *hot_next, *hot_prev; /* in the worker's ring of hot lanes when hot */
    bool started;                         /* it moves; else it only has its place here */
    bool hot;
    bool stopped; /* a fault: not polled again */
    int64_t busy_at;

    /* The control thread's. */
    struct svq_lane *next; /* in the engine's list */
    bool pinned;
    bool reported;
    uint64_t load_before; /* load_ns when the engine was last spread */
    uint64_t load;        /* of the time since then */
    void (*fault)(void *opaque);
    void *opaque;

    _Atomic bool faulted;     /* worker to control */
    _Atomic uint64_t load_ns; /* spent in turns that moved something, about; worker to control */
};

typedef void worker_fn(struct worker *worker, struct svq_lane *lane, void *arg);

struct call {
    worker_fn *fn;
    struct svq_lane *lane;
    void *arg;
    struct call *next; /* to be run behind it */
};

struct worker {
    struct svq_engine *engine;
    pthread_t thread;
    unsigned lanes; /* control thread's count */
    uint64_t load;  /* of those; control thread's */
    int epoll;
    int wake;

    struct svq_lane hot; /* head of the ring; not a lane */
    unsigned polled;     /* lanes in it */
    unsigned served;     /* all lanes */
    unsigned rounds;
    unsigned pause;    /* relaxing instructions after the next round without work */
    int64_t looked_at; /* into the epoll set */
    int64_t moved_at;  /* when something last did */
    bool stop;         /* set inside a call */

    _Atomic(struct call *) call; /* control to worker; NULL once taken */
    _Atomic bool asleep;         /* worker to control: it needs to be woken for a call */
    sem_t done;
    struct call *first; /* control thread's: calls that are being put together */
    struct call **last;
};

struct svq_engine {
    unsigned count;
    int64_t poll_ns;
    unsigned longest_pause; /* in relaxing instructions */
    int fault_event;
    struct svq_lane *lanes;
    int64_t spread_at;
    struct worker workers[];
};

int64_t engine_now(void);
/* What it means in nanoseconds; not SVQ_POLL_DEFAULT. */
int64_t engine_grace(int poll_us);

/* What one instruction of a waiting loop takes is up to the processor: as many as fit in `ns`. */
unsigned worker_pauses_in(int64_t ns);
/* Such an instruction. */
static inline void worker_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}
/* The thread. */
void *worker_main(void *worker);

/* On the worker. A lane is polled from now on; it is polled no longer; one turn. */
void worker_make_hot(struct worker *worker, struct svq_lane *lane);
void worker_make_cold(struct worker *worker, struct svq_lane *lane);
bool worker_turn(struct worker *worker, struct svq_lane *lane);

/* Run fn on the worker between two rounds, and wait until it has. */
void engine_call(struct worker *worker, worker_fn *fn, struct svq_lane *lane, void *arg);

/* The same of many, each on its lane's worker, in this order; workers run theirs in parallel. */
void engine_calls(struct svq_engine *engine, struct call *calls, unsigned count);

/* A lane goes to another worker. Return: 0, or -errno: it is where it was. */
int lane_move(struct svq_lane *lane, struct worker *worker);

#endif
