/* SPDX-License-Identifier: BSD-3-Clause */
#include "loop.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "event/prompt.h"

#define MAX_PARTIES 2100u
#define MAX_FDS     1024u
/* Rounds in vain, some 20 us: traffic stands still, and others may have the processor. */
#define IN_VAIN 256u

struct call {
    void (*fn)(void *arg);
    void *arg;
};

struct bench_loop {
    /* Fixed. */
    pthread_t thread;
    int tid;
    int wake; /* eventfd */

    /* Callers': one at a time. */
    pthread_mutex_t callers;
    sem_t done;

    /* From a caller to the thread. */
    _Atomic(struct call *) call;

    /* The thread's own. */
    bool stop;
    bool sleeps;
    unsigned count;
    const struct bench_party *parties[MAX_PARTIES];
    struct pollfd fds[MAX_FDS];
};

static void sleep_until_called(struct bench_loop *loop, unsigned fds)
{
    eventfd_t value;

    loop->fds[fds] = (struct pollfd){.fd = loop->wake, .events = POLLIN};
    /* A caller that came before this has left a value in the eventfd. */
    poll(loop->fds, fds + 1, -1);
    if (loop->fds[fds].revents & POLLIN)
        eventfd_read(loop->wake, &value);
}

/* Nobody had anything to do: notifications, a last look, sleep. */
static void doze(struct bench_loop *loop)
{
    unsigned fds = 0;
    bool work = false;

    for (unsigned i = 0; i < loop->count; i++) {
        const struct bench_party *party = loop->parties[i];

        work |= party->arm(party->opaque);
        fds += party->fds(party->opaque, &loop->fds[fds], MAX_FDS - 1 - fds);
    }
    if (!work)
        sleep_until_called(loop, fds);
    for (unsigned i = 0; i < loop->count; i++)
        loop->parties[i]->awake(loop->parties[i]->opaque);
}

static void *run(void *opaque)
{
    struct bench_loop *loop = opaque;
    unsigned in_vain = 0;

    loop->tid = gettid();
    sem_post(&loop->done);
    while (!loop->stop) {
        /* Acquire: pairs with bench_loop_call()'s release; the call's contents come with it. */
        struct call *call = atomic_load_explicit(&loop->call, memory_order_acquire);
        unsigned moved = 0;

        if (call) {
            call->fn(call->arg);
            atomic_store_explicit(&loop->call, NULL, memory_order_relaxed);
            sem_post(&loop->done);
            continue;
        }
        for (unsigned i = 0; i < loop->count; i++)
            moved += loop->parties[i]->turn(loop->parties[i]->opaque);
        if (!loop->count)
            sleep_until_called(loop, 0);
        else if (loop->sleeps && !moved)
            doze(loop);
        in_vain = moved ? 0 : in_vain + 1;
        if (in_vain >= IN_VAIN)
            sched_yield();
    }
    return NULL;
}

/* Also when a signal comes meanwhile: a post left behind would end the next call too early. */
static void wait_until_done(struct bench_loop *loop)
{
    while (sem_wait(&loop->done) < 0 && errno == EINTR)
        ;
}

static int start(struct bench_loop *loop, int cpu)
{
    pthread_attr_t attr;
    cpu_set_t cpus;
    sigset_t all, old;
    int err;

    CPU_ZERO(&cpus);
    if (cpu >= 0)
        CPU_SET(cpu, &cpus);
    pthread_attr_init(&attr);
    /* Signals are for the thread that controls us. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = cpu < 0 ? 0 : -pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    if (!err)
        err = -pthread_create(&loop->thread, &attr, run, loop);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (!err)
        wait_until_done(loop);
    return err;
}

int bench_loop_new(int cpu, struct bench_loop **out)
{
    struct bench_loop *loop = calloc(1, sizeof(*loop));
    int err;

    if (!loop)
        return -ENOMEM;
    pthread_mutex_init(&loop->callers, NULL);
    sem_init(&loop->done, 0, 0);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = loop->wake < 0 ? -errno : start(loop, cpu);
    if (err) {
        if (loop->wake >= 0)
            close(loop->wake);
        free(loop);
        return err;
    }
    *out = loop;
    return 0;
}

void bench_loop_call(struct bench_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct call call = {.fn = fn, .arg = arg};

    pthread_mutex_lock(&loop->callers);
    /* Release: pairs with run()'s acquire. */
    atomic_store_explicit(&loop->call, &call, memory_order_release);
    eventfd_write(loop->wake, 1);
    wait_until_done(loop);
    pthread_mutex_unlock(&loop->callers);
}

static void set_stop(void *arg)
{
    ((struct bench_loop *)arg)->stop = true;
}

void bench_loop_free(struct bench_loop *loop)
{
    if (!loop)
        return;
    bench_loop_call(loop, set_stop, loop);
    pthread_join(loop->thread, NULL);
    close(loop->wake);
    sem_destroy(&loop->done);
    pthread_mutex_destroy(&loop->callers);
    free(loop);
}

struct change {
    struct bench_loop *loop;
    const struct bench_party *party;
    bool sleeps;
    int ret;
};

static void add(void *arg)
{
    struct change *change = arg;
    struct bench_loop *loop = change->loop;

    change->ret = loop->count < MAX_PARTIES ? 0 : -ENOSPC;
    if (!change->ret)
        loop->parties[loop->count++] = change->party;
}

static void take_away(void *arg)
{
    struct change *change = arg;
    struct bench_loop *loop = change->loop;

    for (unsigned i = 0; i < loop->count; i++) {
        if (loop->parties[i] != change->party)
            continue;
        loop->count--;
        for (; i < loop->count; i++)
            loop->parties[i] = loop->parties[i + 1];
    }
}

static void set_sleeps(void *arg)
{
    struct change *change = arg;

    change->loop->sleeps = change->sleeps;
}

int bench_loop_add(struct bench_loop *loop, const struct bench_party *party)
{
    struct change change = {.loop = loop, .party = party};

    bench_loop_call(loop, add, &change);
    return change.ret;
}

void bench_loop_remove(struct bench_loop *loop, const struct bench_party *party)
{
    struct change change = {.loop = loop, .party = party};

    bench_loop_call(loop, take_away, &change);
}

void bench_loop_sleeps(struct bench_loop *loop, bool sleeps)
{
    struct change change = {.loop = loop, .sleeps = sleeps};

    bench_loop_call(loop, set_sleeps, &change);
}

int bench_loop_tid(const struct bench_loop *loop)
{
    return loop->tid;
}

int bench_go_first(void)
{
    const struct sched_param first = {.sched_priority = 1};
    int before = sched_getscheduler(0);

    if (sched_setscheduler(0, SCHED_FIFO, &first))
        svq_prompt_start();
    return before;
}

struct bench_use bench_thread_use(int pid, int tid)
{
    struct bench_use use = {0};
    char path[64];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
    file = fopen(path, "re");
    if (!file)
        return use;
    if (fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64, &use.ran, &use.waited, &use.times) != 3)
        use = (struct bench_use){0};
    fclose(file);
    return use;
}
