/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay is killed after each of its stores. Each step of a scenario (a turn, a start, an end) is
 * run by a child process, instruction by instruction; whenever that has changed what outlives it,
 * somebody else looks at what there is, and another relay with another back-end goes on from there,
 * until the guest has all that it asked for: what was completed once only, the rest again and in
 * the guest's order.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/stage.h"

/* Under a sanitizer each instruction is several. */
#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
#define THREADS_WATCHED true
#else
#define THREADS_WATCHED false
#endif
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { CHOSEN = 12, ROUNDS = SANITIZED ? 3 : 4 };

/* Crash points altogether. */
static unsigned long points;
/* In the process of a successor that dies as well. */
static bool nested;

/* ---- What must hold -------------------------------------------------------------------------- */

/*
 * What the guest has not got and somebody has taken is in flight, in the guest's order: all that is
 * older than the youngest one taken, and nothing else. Return: how many were taken.
 */
static unsigned expect_in_flight(struct stage *s, unsigned *count)
{
    struct kit_findings found;
    unsigned next = 0;

    kit_region_look(&found, s->part, s->entries, &s->guest);
    if (found.wrong)
        fprintf(stderr, "# the region: %s\n", found.wrong);
    kit_require(!found.wrong && !found.leaked);
    for (unsigned i = 0; i < found.count; i++) {
        struct kit_again *again = &found.again[i];
        uint64_t addr = s->guest.format == SVQ_RING_PACKED ? again->addr
                                                           : s->guest.split.desc[again->head].addr;
        unsigned request = stage_request_at(addr);

        kit_require(request >= next && request < s->offered && !s->got[request]);
        for (; next < request; next++)
            kit_require(s->got[next]);
        next++;
    }
    while (next < s->offered && s->got[next])
        next++;
    for (unsigned i = next; i < s->offered; i++)
        kit_require(!s->got[i]);
    *count = found.count;
    return next;
}

static void expect_report(struct stage *s, unsigned count)
{
    struct svq_inflight_report report;
    struct kit_findings found;

    kit_region_look(&found, s->part, s->entries, &s->guest);
    kit_require(svq_inflight_read(s->part, s->guest.format, s->entries, s->guest.num, &s->guest.at,
                                  &report) == 0);
    kit_require(report.tracked && report.in_flight == count);
    if (s->guest.format == SVQ_RING_SPLIT) {
        kit_require(report.used_base == s->guest.split.used->idx);
        kit_require(report.base == (uint16_t)(s->guest.split.used->idx + count));
    } else {
        struct kit_place place = {found.used_idx, found.used_wrap};

        /* A base whose upper half is 0 says "used as avail". */
        kit_require(report.used_base ==
                    (kit_place_word(place) | (uint32_t)kit_place_word(place) << 16));
        kit_require(report.base >> 16 == kit_place_word(place));
        for (unsigned i = 0; i < found.count; i++)
            kit_place_move(&place, s->guest.num, found.again[i].descs);
        kit_require((uint16_t)report.base == kit_place_word(place));
    }
}

/* Is there something for a successor to settle? By the fields of the specification. */
static bool cut_short(const struct stage *s)
{
    const uint16_t *fields = (const uint16_t *)(const void *)s->part;

    if (s->guest.format == SVQ_RING_SPLIT)
        return fields[7] != s->guest.split.used->idx;
    return fields[8] != fields[9] || fields[6] != fields[7];
}

static void crash_everywhere(struct stage *s, void (*step)(struct stage *s));

static bool got_all(const struct stage *s)
{
    for (unsigned i = 0; i < s->offered; i++)
        if (!s->got[i])
            return false;
    return true;
}

/* In a process of its own: what a successor makes of it. */
static void succeed(struct stage *s)
{
    unsigned next, count, more = s->offered + 6;
    bool had[STAGE_REQUESTS] = {false};

    stage_reap(s);
    next = expect_in_flight(s, &count);
    kit_require(next >= s->seen);
    expect_report(s, count);
    memcpy(had, s->got, sizeof(had));
    s->base = 0x7fff7fff; /* does not count */
    if (!nested && cut_short(s) && points % CHOSEN == 0) {
        nested = true;
        crash_everywhere(s, stage_start);
    }
    stage_start(s);
    stage_attach(s);
    next = 0;
    for (unsigned turn = 0; turn < 400 && !(s->offered == more && got_all(s)); turn++) {
        unsigned before = s->taken_count;

        stage_turn(s);
        while (kit_percent(&s->rng, 70) && stage_take(s))
            ;
        for (unsigned i = before; i < s->taken_count; i++) {
            while (next < s->offered && had[next])
                next++;
            kit_require(s->taken[i].request == next++); /* once, and in order */
        }
        while (s->taken_count && kit_percent(&s->rng, 50))
            stage_finish(s);
        s->device->ops->publish(s->device);
        stage_reap(s);
        while (s->offered < more && kit_percent(&s->rng, 50) && stage_offer(s))
            ;
        s->driver->ops->publish(s->driver);
    }
    kit_require(s->offered == more && got_all(s));
    kit_require(expect_in_flight(s, &count) == more && count == 0);
}

static bool succeeds(struct stage *s)
{
    pid_t pid = fork();
    int status;

    kit_require(pid >= 0);
    if (pid == 0) {
        succeed(s);
        _exit(0);
    }
    kit_require(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- Dying ----------------------------------------------------------------------------------- */

/* Return: a child that will take the step, stopped before it. */
static pid_t begin(struct stage *s, void (*step)(struct stage *s))
{
    pid_t pid = fork();
    int status;

    kit_require(pid >= 0);
    if (pid == 0) {
        kit_require(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        step(s);
        _exit(0);
    }
    kit_require(waitpid(pid, &status, 0) == pid);
    kit_require(WIFSTOPPED(status));
    return pid;
}

static void crash_everywhere(struct stage *s, void (*step)(struct stage *s))
{
    static struct stage_snapshot first[2], last[2];
    unsigned depth = nested;
    pid_t pid;
    int status;

    stage_save(s, &first[depth]);
    last[depth] = first[depth];
    pid = begin(s, step);
    while (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0) {
        kit_require(waitpid(pid, &status, 0) == pid);
        if (!WIFSTOPPED(status))
            break;
        kit_require(WSTOPSIG(status) == SIGTRAP);
        if (!stage_changed(s, &last[depth]))
            continue;
        stage_save(s, &last[depth]);
        points++;
        kit_require(succeeds(s));
        stage_restore(s, &last[depth]);
    }
    kit_require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    stage_restore(s, &first[depth]);
}

/* The step may end at any instruction; then it is done. */
static void survive(struct stage *s, void (*step)(struct stage *s))
{
    unsigned count;

    crash_everywhere(s, step);
    step(s);
    stage_reap(s);
    expect_in_flight(s, &count);
    expect_report(s, count);
}

/* ---- Scenarios ------------------------------------------------------------------------------- */

static void play(uint64_t guest, uint64_t backend, uint64_t seed, bool share)
{
    struct stage s;

    stage_open(&s, guest, backend, seed);
    s.share = share;
    stage_start(&s);
    stage_attach(&s);
    for (unsigned round = 0; round < ROUNDS; round++) {
        while (s.offered < STAGE_REQUESTS / 2 && kit_percent(&s.rng, 75) && stage_offer(&s))
            ;
        s.driver->ops->publish(s.driver);
        survive(&s, stage_turn);
        while (kit_percent(&s.rng, 75) && stage_take(&s))
            ;
        while (s.taken_count && kit_percent(&s.rng, 60))
            stage_finish(&s);
        s.device->ops->publish(s.device);
        if (round == 1) {
            survive(&s, stage_restart);
            stage_attach(&s);
        }
        if (round == 2) {
            /* An end in order, or another one, so that there is something to be taken over. */
            if (seed % 2) {
                s.seen = 0; /* nobody asked the back-end what it has taken */
                survive(&s, stage_detach);
            }
            svq_relay_free(s.relay);
            s.relay = NULL;
            survive(&s, stage_start);
            stage_attach(&s);
        }
    }
    stage_close(&s);
}

/* Every pair of formats, orders and plans for tables. */
static void play_all(bool packed_guest, bool packed_backend, bool share)
{
    static const uint64_t orders[][2] = {
        {0, 0}, {IN_ORDER, 0}, {IN_ORDER, IN_ORDER}, {0, IN_ORDER}};
    static const uint64_t tables[][2] = {{0, 0}, {INDIRECT, INDIRECT}, {INDIRECT, 0}};
    unsigned pair = 2 * packed_guest + packed_backend;

    points = 0;
    for (unsigned i = 0; i < 12; i++) {
        const uint64_t *order = orders[i / 3], *table = tables[i % 3];

        if (SANITIZED && i != 3 * pair + pair % 3)
            continue;
        play(order[0] | table[0] | (packed_guest ? PACKED : 0),
             order[1] | table[1] | (packed_backend ? PACKED : 0), i + 1, share);
    }
    print_message("# killed at %lu points\n", points);
    assert_true(points > (SANITIZED ? 25 : 500));
}

static void test_split_split(void **state)
{
    (void)state;
    play_all(false, false, false);
}

static void test_split_shared(void **state)
{
    (void)state;
    play_all(false, false, true);
}

static void test_split_packed(void **state)
{
    (void)state;
    play_all(false, true, false);
}

static void test_packed_split(void **state)
{
    (void)state;
    play_all(true, false, false);
}

static void test_packed_packed(void **state)
{
    (void)state;
    play_all(true, true, false);
}

/* Containers may forbid it, and ThreadSanitizer's own threads do not take it well. */
static bool can_trace(void)
{
    pid_t pid = fork();
    int status;

    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0);
    return !THREADS_WATCHED && waitpid(pid, &status, 0) == pid && status == 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_split),   cmocka_unit_test(test_split_shared),
        cmocka_unit_test(test_split_packed),  cmocka_unit_test(test_packed_split),
        cmocka_unit_test(test_packed_packed),
    };

    if (!can_trace()) {
        printf("1..0 # SKIP processes cannot be traced here\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
