/* SPDX-License-Identifier: BSD-3-Clause */
/* A rig with a dirty log, and what has to be in it. For use inside cmocka tests: it asserts. */
#ifndef SVQ_TESTS_KIT_LOGGED_H
#define SVQ_TESTS_KIT_LOGGED_H

#include "rig.h"

#define LOGGED_PAGES (RIG_END / RIG_PAGE)

struct logged {
    struct rig rig;
    struct kit_log log;
    bool expected[LOGGED_PAGES];
    bool may[LOGGED_PAGES];             /* of the ring: marked or not */
    uint8_t ring[RIG_TABLES - RIG_GPA]; /* the guest's ring as it was */
};

/* Fixtures, and a test on such sides, as RIG_TEST(). */
int logged_setup(void **state);
int logged_teardown(void **state);
/* clang-format off */
#define LOGGED_TEST(name, sides) \
    {#name "_" #sides, name, logged_setup, logged_teardown, (void *)(uintptr_t)&(sides)}
/* clang-format on */

/* Log there from now on, the ring as well or not. */
void logged_set(struct logged *s, struct svq_log *log, bool ring, uint64_t desc, uint64_t device);
/* ... to the rig's log, and the ring where it is. */
void logged_start(struct logged *s, bool ring);

/* These pages must be in the log. */
void logged_expect(struct logged *s, uint64_t gpa, uint64_t len);
void logged_expect_bufs(struct logged *s, const struct kit_buf *bufs, unsigned count);
/* The log shows exactly what is expected; then both start anew. */
void logged_check(struct logged *s, struct kit_log *log);

/* A page whose content has changed is a page that was written: no reasoning beats that. */
void logged_remember_ring(struct logged *s);
void logged_expect_changes(struct logged *s);

/*
 * Completions, as the guest finds them: a used entry may hold the same bytes as before, and was
 * written all the same. Return: how many.
 */
unsigned logged_expect_used(struct logged *s);

#endif
