/* SPDX-License-Identifier: BSD-3-Clause */
/* A loop for a cmocka test, events to wait for, and a trail of what happened. */
#ifndef SVQ_TESTS_KIT_FIBERS_H
#define SVQ_TESTS_KIT_FIBERS_H

#include "event/fiber.h"
#include "memory.h"

/* The test's loop; made and freed by setup and teardown, which also look for leaked fds. */
extern struct svq_loop *fibers_loop;
int fibers_setup(void **state);
int fibers_teardown(void **state);

/* A letter for everything that happened, in order. */
extern char fibers_trail[256];
void fibers_mark(char letter);

struct svq_fiber *fibers_spawn(void (*fn)(void *arg), void *arg);
/* Run the loop to its end. */
void fibers_run(void);

/* Eventfds. */
int fibers_event(void);
void fibers_ring(int fd);
bool fibers_hush(int fd);
int fibers_poll(int fd, int64_t deadline);

#endif
