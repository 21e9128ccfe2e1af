/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "fibers.h"

struct svq_loop *fibers_loop;
char fibers_trail[256];
static unsigned fds_before;

void fibers_mark(char letter)
{
    size_t len = strlen(fibers_trail);

    kit_require(len + 1 < sizeof(fibers_trail));
    fibers_trail[len] = letter;
    fibers_trail[len + 1] = '\0';
}

int fibers_setup(void **state)
{
    (void)state;
    fibers_trail[0] = '\0';
    fds_before = kit_open_fds();
    return svq_loop_new(&fibers_loop);
}

int fibers_teardown(void **state)
{
    (void)state;
    svq_loop_free(fibers_loop);
    assert_int_equal(kit_open_fds(), fds_before);
    return 0;
}

struct svq_fiber *fibers_spawn(void (*fn)(void *arg), void *arg)
{
    struct svq_fiber *fiber = NULL;

    kit_require(svq_fiber_spawn(fibers_loop, "test", fn, arg, &fiber) == 0);
    kit_require(fiber != NULL);
    return fiber;
}

void fibers_run(void)
{
    assert_null(svq_fiber_self());
    assert_int_equal(svq_loop_run(fibers_loop), 0);
    assert_null(svq_fiber_self());
}

int fibers_event(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    kit_require(fd >= 0);
    return fd;
}

void fibers_ring(int fd)
{
    uint64_t one = 1;

    kit_require(write(fd, &one, sizeof(one)) == sizeof(one));
}

bool fibers_hush(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) == sizeof(count);
}

int fibers_poll(int fd, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = POLLIN, .revents = 0x7fff};

    return svq_fiber_poll(&p, 1, deadline);
}
