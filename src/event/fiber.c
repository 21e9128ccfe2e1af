/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fibers over epoll. A fiber that waits puts its fds into the loop's epoll set for as long as it
 * waits; the loop makes it runnable when one is ready, when its deadline passes or when it is
 * woken. Control work is rare, so registering anew for each wait costs less than keeping state
 * would.
 */
#include "event/fiber.h"
#include "event/prompt.h"
#include "event/sanitizer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* Touched pages only count; the guard page below turns an overflow into a fault. */
#define STACK_SIZE ((size_t)256 * 1024)
#define EVENTS     64

struct svq_fiber {
    struct svq_loop *loop;
    struct svq_fiber *next; /* in the loop's list of all */
    struct svq_fiber *next_run;
    const char *name;
    void (*fn)(void *arg);
    void *arg;
    ucontext_t context;
    struct svq_stack stack;
    void *mapping;
    int64_t deadline; /* while parked */
    bool parked;
    bool queued; /* in the run queue */
    bool woken;
    bool ended;
};

struct svq_loop {
    int epoll;
    int quit_event;
    _Atomic bool quit;
    struct svq_fiber *all;
    struct svq_fiber *run_first;
    struct svq_fiber **run_last;
    ucontext_t context;
    struct svq_stack stack;
};

static _Thread_local struct svq_fiber *current;

int64_t svq_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SVQ_SEC + t.tv_nsec;
}

int64_t svq_deadline(int64_t ns)
{
    int64_t deadline;

    return __builtin_add_overflow(svq_now(), ns, &deadline) ? SVQ_FOREVER : deadline;
}

struct svq_fiber *svq_fiber_self(void)
{
    return current;
}

/* ---- Loop
 * ---------------------------------------------------------------------------------------- */

int svq_loop_new(struct svq_loop **out)
{
    struct svq_loop *loop = calloc(1, sizeof(*loop));
    struct epoll_event event = {.events = EPOLLIN};
    int err;

    if (!loop)
        return -ENOMEM;
    loop->run_last = &loop->run_first;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->quit_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll >= 0 && loop->quit_event >= 0 &&
        !epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->quit_event, &event)) {
        *out = loop;
        return 0;
    }
    err = -errno;
    svq_loop_free(loop);
    return err;
}

void svq_loop_free(struct svq_loop *loop)
{
    if (!loop)
        return;
    if (loop->epoll >= 0)
        close(loop->epoll);
    if (loop->quit_event >= 0)
        close(loop->quit_event);
    free(loop);
}

void svq_loop_quit(struct svq_loop *loop)
{
    int saved = errno;
    uint64_t one = 1;

    atomic_store(&loop->quit, true);
    /* Cannot fail: the counter is far from full, and a full one wakes just as well. */
    if (write(loop->quit_event, &one, sizeof(one)) < 0)
        errno = saved;
}

static void enqueue(struct svq_fiber *fiber)
{
    struct svq_loop *loop = fiber->loop;

    if (fiber->queued || fiber->ended)
        return;
    fiber->queued = true;
    fiber->next_run = NULL;
    *loop->run_last = fiber;
    loop->run_last = &fiber->next_run;
}

/* Until somebody's deadline; SVQ_FOREVER: nobody has one. */
static int64_t time_left(const struct svq_loop *loop, int64_t now)
{
    int64_t first = SVQ_FOREVER;

    if (loop->run_first)
        return 0;
    for (const struct svq_fiber *f = loop->all; f; f = f->next)
        if (f->parked && f->deadline < first)
            first = f->deadline;
    if (first == SVQ_FOREVER)
        return first;
    return first > now ? first - now : 0;
}

/* For epoll: milliseconds, rounded up; -1: for ever. */
static int in_ms(int64_t left)
{
    int64_t ms = left / SVQ_MSEC + (left % SVQ_MSEC > 0);

    if (left == SVQ_FOREVER)
        return -1;
    return ms > 3600 * 1000 ? 3600 * 1000 : ms;
}

/* Return: as epoll_wait(). */
static int wait_for_events(struct svq_loop *loop, struct epoll_event *events)
{
    int64_t left = time_left(loop, svq_now());
    struct timespec nap = {.tv_nsec = left};
    struct pollfd p = {.fd = loop->epoll, .events = POLLIN};

    if (!left || left >= SVQ_MSEC)
        return epoll_wait(loop->epoll, events, EVENTS, in_ms(left));
    /* epoll_wait() could not be told such a short time, and epoll_pwait2() is not everywhere. */
    if (ppoll(&p, 1, &nap, NULL) < 0)
        return -1;
    return epoll_wait(loop->epoll, events, EVENTS, 0);
}

static void expire(struct svq_loop *loop)
{
    int64_t now = svq_now();

    for (struct svq_fiber *f = loop->all; f; f = f->next)
        if (f->parked && f->deadline <= now)
            enqueue(f);
}

static void reap(struct svq_loop *loop)
{
    struct svq_fiber **link = &loop->all, *f;

    while ((f = *link)) {
        if (!f->ended) {
            link = &f->next;
            continue;
        }
        *link = f->next;
        svq_stack_destroy(&f->stack);
        munmap(f->mapping, STACK_SIZE);
        free(f);
    }
}

static void resume(struct svq_fiber *fiber)
{
    struct svq_loop *loop = fiber->loop;

    current = fiber;
    svq_stack_leave(&loop->stack, &fiber->stack, 0);
    swapcontext(&loop->context, &fiber->context);
    svq_stack_arrive(&loop->stack, &fiber->stack);
    current = NULL;
}

/* Run everybody who is runnable now, not those who become so meanwhile. */
static void run_queue(struct svq_loop *loop)
{
    struct svq_fiber *f = loop->run_first, *next;

    loop->run_first = NULL;
    loop->run_last = &loop->run_first;
    for (; f; f = next) {
        next = f->next_run;
        f->queued = false;
        resume(f);
    }
    reap(loop);
}

int svq_loop_run(struct svq_loop *loop)
{
    struct epoll_event events[EVENTS];

    svq_stack_current(&loop->stack);
    svq_prompt_start();
    while (loop->all && !atomic_load(&loop->quit)) {
        int count = wait_for_events(loop, events);

        if (count < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr)
                enqueue(events[i].data.ptr);
        expire(loop);
        run_queue(loop);
    }
    return 0;
}

/* ---- Fibers
 * --------------------------------------------------------------------------------------- */

/* Back to the loop, until resumed. */
static void leave(struct svq_fiber *fiber)
{
    struct svq_loop *loop = fiber->loop;

    svq_stack_leave(&fiber->stack, &loop->stack, fiber->ended);
    swapcontext(&fiber->context, &loop->context);
    svq_stack_arrive(&fiber->stack, &loop->stack);
}

static void fiber_main(void)
{
    struct svq_fiber *fiber = current;

    svq_stack_arrive(&fiber->stack, &fiber->loop->stack);
    fiber->fn(fiber->arg);
    fiber->ended = true;
    leave(fiber);
}

int svq_fiber_spawn(struct svq_loop *loop, const char *name, void (*fn)(void *arg), void *arg,
                    struct svq_fiber **out)
{
    struct svq_fiber *fiber = calloc(1, sizeof(*fiber));
    long page = sysconf(_SC_PAGESIZE);

    if (!fiber)
        return -ENOMEM;
    fiber->mapping = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (fiber->mapping == MAP_FAILED) {
        free(fiber);
        return -ENOMEM;
    }
    mprotect(fiber->mapping, page, PROT_NONE);
    fiber->loop = loop;
    fiber->name = name;
    fiber->fn = fn;
    fiber->arg = arg;
    fiber->stack.bottom = (char *)fiber->mapping + page;
    fiber->stack.size = STACK_SIZE - page;
    svq_stack_create(&fiber->stack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.bottom;
    fiber->context.uc_stack.ss_size = fiber->stack.size;
    makecontext(&fiber->context, fiber_main, 0);
    fiber->next = loop->all;
    loop->all = fiber;
    enqueue(fiber);
    if (out)
        *out = fiber;
    return 0;
}

void svq_fiber_wake(struct svq_fiber *fiber)
{
    fiber->woken = true;
    if (fiber->parked)
        enqueue(fiber);
}

/* Park until something makes us runnable. */
static void park(struct svq_fiber *self, int64_t deadline)
{
    self->deadline = deadline;
    self->parked = true;
    leave(self);
    self->parked = false;
}

static int watch(struct svq_fiber *self, struct pollfd *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        /* poll's and epoll's names for the same conditions have the same values. */
        struct epoll_event event = {.events = fds[i].events, .data.ptr = self};

        if (fds[i].fd < 0 || !epoll_ctl(self->loop->epoll, EPOLL_CTL_ADD, fds[i].fd, &event))
            continue;
        int err = -errno;

        while (i--)
            if (fds[i].fd >= 0)
                epoll_ctl(self->loop->epoll, EPOLL_CTL_DEL, fds[i].fd, NULL);
        return err;
    }
    return 0;
}

static void unwatch(struct svq_fiber *self, const struct pollfd *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (fds[i].fd >= 0)
            epoll_ctl(self->loop->epoll, EPOLL_CTL_DEL, fds[i].fd, NULL);
}

int svq_fiber_poll(struct pollfd *fds, unsigned count, int64_t deadline)
{
    struct svq_fiber *self = current;
    int ready, err;

    ready = count ? poll(fds, count, 0) : 0;
    if (ready || self->woken || deadline <= svq_now()) {
        /* No need to wait, but a busy fiber must not keep the others from running. */
        enqueue(self);
        leave(self);
    } else {
        err = watch(self, fds, count);
        if (err)
            return err;
        park(self, deadline);
        unwatch(self, fds, count);
    }
    ready = count ? poll(fds, count, 0) : 0;
    if (ready)
        return ready < 0 ? -errno : ready;
    if (self->woken || svq_now() < deadline) {
        self->woken = false;
        return 0;
    }
    return -ETIMEDOUT;
}

int svq_fiber_await(int fd, short events, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct svq_fiber *self = current;
    int err;

    if (svq_now() >= deadline)
        return -ETIMEDOUT;
    err = watch(self, &p, 1);
    if (err)
        return err;
    park(self, deadline);
    unwatch(self, &p, 1);
    return 0;
}

void svq_fiber_sleep(int64_t ns)
{
    struct svq_fiber *self = current;
    int64_t deadline = svq_deadline(ns);

    do {
        park(self, deadline);
    } while (svq_now() < deadline);
}
