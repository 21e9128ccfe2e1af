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
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <shadowvq/inflight.h>

#include "kit/region.h"

#define EVENT_IDX SVQ_BIT(SVQ_F_EVENT_IDX)
#define INDIRECT  SVQ_BIT(SVQ_F_INDIRECT_DESC)
#define IN_ORDER  SVQ_BIT(SVQ_F_IN_ORDER)
#define PACKED    SVQ_BIT(SVQ_F_RING_PACKED)

#define GPA     UINT64_C(0x100000)
#define DRIVER  (GPA + 0x1000)
#define DEVICE  (GPA + 0x2000)
#define TABLES  (GPA + 0x10000)
#define DATA    (GPA + 0x40000)
#define SIZE    UINT64_C(0x80000)
#define STRIDE  1024u /* of requests in TABLES and DATA */
#define SHADOW  (UINT64_C(1) << 44)
#define SHARED  0x80000u
#define LONGEST 3u

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

enum { REQUESTS = 96, CHOSEN = 12, ROUNDS = SANITIZED ? 3 : 4 };

struct side {
    unsigned num;
    uint64_t features;
};

struct stage {
    struct side side[2]; /* guest, back-end */
    unsigned entries;    /* of the part */
    struct kit_memory memory;
    struct kit_rng rng;

    /* What outlives the relay. */
    struct kit_ring guest;
    uint8_t *shared; /* the rest of it: */
    uint8_t *part;
    struct kit_ring shadow;
    struct svq_relay_tables tables;

    struct svq_relay *relay;
    uint32_t base; /* for the next one */
    struct kit_driver *driver;
    struct kit_device *device;

    unsigned offered;
    bool got[REQUESTS];      /* the guest has it back, */
    bool finished[REQUESTS]; /* and a back-end has said so */
    struct {
        uint16_t id;
        unsigned request;
    } taken[REQUESTS]; /* by the present back-end, not completed */
    unsigned taken_count;
    unsigned seen; /* requests that any back-end has seen */
    bool nested;
};

/* Crash points altogether. */
static unsigned long points;

/* ---- Memory ---------------------------------------------------------------------------------- */

#define KEPT 0x3000u /* of guest memory: the ring */

struct snapshot {
    uint8_t ring[KEPT];
    uint8_t shared[SHARED];
};

static size_t shared_size(const struct stage *s)
{
    return (size_t)((uint8_t *)s->tables.host - s->shared) + s->tables.size;
}

/* Pages that never change need not be compared. */
static size_t watched_size(const struct stage *s)
{
    return (size_t)((uint8_t *)s->tables.host - s->shared);
}

static const struct {
    uint64_t gpa;
    size_t size;
} areas[] = {{GPA, 512}, {DRIVER, 64}, {DEVICE, 256}};

static void save(const struct stage *s, struct snapshot *to)
{
    memcpy(to->ring, s->memory.bytes, KEPT);
    memcpy(to->shared, s->shared, shared_size(s));
}

static void restore(struct stage *s, const struct snapshot *from)
{
    memcpy(s->memory.bytes, from->ring, KEPT);
    memcpy(s->shared, from->shared, shared_size(s));
}

static bool changed(const struct stage *s, const struct snapshot *since)
{
    for (unsigned i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
        size_t at = areas[i].gpa - GPA;

        if (memcmp(since->ring + at, s->memory.bytes + at, areas[i].size) != 0)
            return true;
    }
    return memcmp(since->shared, s->shared, watched_size(s)) != 0;
}

/* ---- Guest and back-end ---------------------------------------------------------------------- */

static unsigned request_at(uint64_t addr)
{
    uint64_t at = addr - (addr < DATA ? TABLES : DATA);

    kit_require(addr >= TABLES && at / STRIDE < REQUESTS);
    return (unsigned)(at / STRIDE);
}

/* Return: false when there is no room. */
static bool offer(struct stage *s)
{
    struct kit_buf bufs[LONGEST];
    unsigned count = kit_between(&s->rng, 1, LONGEST), direct = count;
    struct kit_chain chain;

    kit_require(s->offered < REQUESTS);
    for (unsigned i = 0; i < count; i++)
        bufs[i] = (struct kit_buf){DATA + s->offered * STRIDE + 64 * i, 64, i > 0};
    if (s->side[0].features & INDIRECT && kit_percent(&s->rng, 60))
        direct = s->side[0].features & PACKED ? 0 : kit_below(&s->rng, count);
    chain = (struct kit_chain){.bufs = bufs,
                               .count = count,
                               .direct = direct,
                               .table = TABLES + s->offered * STRIDE,
                               .token = (void *)(uintptr_t)s->offered};
    if (!s->driver->ops->add(s->driver, &chain))
        return false;
    s->offered++;
    return true;
}

static void reap(struct stage *s)
{
    struct kit_done done;
    int result;

    while ((result = s->driver->ops->reap(s->driver, &done)) > 0) {
        unsigned request = (unsigned)(uintptr_t)done.token;

        kit_require(s->finished[request] && !s->got[request]);
        s->got[request] = true;
    }
    if (result < 0)
        fprintf(stderr, "# the guest says: %s\n", s->driver->broken);
    kit_require(result == 0);
}

/* Return: false when there is nothing to take. */
static bool take(struct stage *s)
{
    struct kit_buf bufs[16];
    uint16_t id;
    int count = s->device->ops->take(s->device, &id, bufs, 16);
    unsigned request;

    if (count < 0)
        fprintf(stderr, "# the back-end says: %s\n", s->device->broken);
    kit_require(count >= 0);
    if (!count)
        return false;
    request = request_at(bufs[0].gpa);
    kit_require(!s->got[request] && bufs[0].gpa == DATA + request * STRIDE);
    s->taken[s->taken_count].id = id;
    s->taken[s->taken_count++].request = request;
    if (s->seen <= request)
        s->seen = request + 1;
    return true;
}

static void finish(struct stage *s)
{
    bool in_order = s->side[1].features & IN_ORDER;
    unsigned i = in_order ? 0 : kit_below(&s->rng, s->taken_count);
    unsigned batch = in_order ? kit_between(&s->rng, 1, s->taken_count) : 1;

    s->device->ops->complete(s->device, s->taken[i + batch - 1].id, 1, batch);
    for (unsigned n = 0; n < batch; n++)
        s->finished[s->taken[i + n].request] = true;
    s->taken_count -= batch;
    memmove(&s->taken[i], &s->taken[i + batch], (s->taken_count - i) * sizeof(s->taken[0]));
}

/* ---- The relay ------------------------------------------------------------------------------- */

static void attach(struct stage *s)
{
    kit_device_free(s->device);
    s->device = kit_device_new(s->memory.map, &s->shadow, s->side[1].features,
                               s->shadow.format == SVQ_RING_PACKED ? SVQ_PACKED_START : 0);
    s->device->tables = s->tables;
    s->device->mixed = true;
    s->taken_count = 0;
}

static void do_start(struct stage *s)
{
    struct svq_relay_config config = {
        .guest = {s->side[0].num, s->side[0].features, s->guest.at},
        .backend = {s->shadow.num, s->side[1].features, s->shadow.at},
        .base = s->base,
        .map = s->memory.map,
        .tables = s->tables,
        .inflight = s->part,
        .inflight_entries = s->entries,
    };

    kit_require(svq_relay_new(&config, &s->relay) == 0);
}

static void do_turn(struct stage *s)
{
    const char *reason = "";
    unsigned result = svq_relay_poll(s->relay);

    svq_relay_fault(s->relay, &reason);
    if (result & SVQ_RELAY_FAULT)
        fprintf(stderr, "# the relay says: %s\n", reason);
    kit_require(!(result & SVQ_RELAY_FAULT));
}

static void do_restart(struct stage *s)
{
    kit_require(svq_relay_restart(s->relay, &s->shadow.at, &s->tables) == 0);
}

static void do_detach(struct stage *s)
{
    s->base = svq_relay_detach(s->relay);
}

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
        unsigned request = request_at(addr);

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
    bool had[REQUESTS] = {false};

    reap(s);
    next = expect_in_flight(s, &count);
    kit_require(next >= s->seen);
    expect_report(s, count);
    memcpy(had, s->got, sizeof(had));
    s->base = 0x7fff7fff; /* does not count */
    if (!s->nested && cut_short(s) && points % CHOSEN == 0) {
        s->nested = true;
        crash_everywhere(s, do_start);
    }
    do_start(s);
    attach(s);
    next = 0;
    for (unsigned turn = 0; turn < 400 && !(s->offered == more && got_all(s)); turn++) {
        unsigned before = s->taken_count;

        do_turn(s);
        while (kit_percent(&s->rng, 70) && take(s))
            ;
        for (unsigned i = before; i < s->taken_count; i++) {
            while (next < s->offered && had[next])
                next++;
            kit_require(s->taken[i].request == next++); /* once, and in order */
        }
        while (s->taken_count && kit_percent(&s->rng, 50))
            finish(s);
        s->device->ops->publish(s->device);
        reap(s);
        while (s->offered < more && kit_percent(&s->rng, 50) && offer(s))
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
    static struct snapshot first[2], last[2];
    unsigned depth = s->nested;
    pid_t pid;
    int status;

    save(s, &first[depth]);
    last[depth] = first[depth];
    pid = begin(s, step);
    while (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0) {
        kit_require(waitpid(pid, &status, 0) == pid);
        if (!WIFSTOPPED(status))
            break;
        kit_require(WSTOPSIG(status) == SIGTRAP);
        if (!changed(s, &last[depth]))
            continue;
        save(s, &last[depth]);
        points++;
        kit_require(succeeds(s));
        restore(s, &last[depth]);
    }
    kit_require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    restore(s, &first[depth]);
}

/* The step may end at any instruction; then it is done. */
static void survive(struct stage *s, void (*step)(struct stage *s))
{
    unsigned count;

    crash_everywhere(s, step);
    step(s);
    reap(s);
    expect_in_flight(s, &count);
    expect_report(s, count);
}

/* ---- Scenarios ------------------------------------------------------------------------------- */

static void open_stage(struct stage *s, uint64_t guest, uint64_t backend, uint64_t seed)
{
    bool packed = guest & PACKED;
    enum svq_ring_format format = svq_ring_format(backend);
    struct svq_relay_config config = {0};
    unsigned num = packed ? 7 : 8;
    size_t at;

    memset(s, 0, sizeof(*s));
    s->rng.state = seed;
    s->side[0] = (struct side){num, guest};
    s->side[1] = (struct side){svq_relay_shadow_num(format, num), backend};
    s->entries = num + (seed % 3 == 0 ? 5 : 0);
    kit_memory_init(&s->memory, GPA, SIZE);
    s->guest = kit_ring_in(&s->memory, svq_ring_format(guest), num, GPA, DRIVER, DEVICE);
    s->shared = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    kit_require(s->shared != MAP_FAILED);
    s->part = s->shared;
    at = svq_inflight_size(s->guest.format, s->entries);
    s->shadow = kit_ring_at(format, s->side[1].num, s->shared + at, s->shared + at + 512,
                            s->shared + at + 576);
    config.guest = (struct svq_relay_side){num, guest, s->guest.at};
    config.backend = (struct svq_relay_side){s->side[1].num, backend, s->shadow.at};
    s->tables.host = s->shared + at + 1024;
    s->tables.addr = SHADOW;
    s->tables.size = svq_relay_tables_size(&config);
    kit_require(at + 1024 + s->tables.size <= SHARED);
    s->base = packed ? (seed % 2 ? 0x80058005 : 0x00050005) : 65533;
    s->driver = kit_driver_new(&s->memory, &s->guest, guest, s->base & 0xffff, NULL);
}

static void close_stage(struct stage *s)
{
    svq_relay_free(s->relay);
    kit_device_free(s->device);
    kit_driver_free(s->driver);
    munmap(s->shared, SHARED);
    kit_memory_free(&s->memory);
}

static void play(uint64_t guest, uint64_t backend, uint64_t seed)
{
    struct stage s;

    open_stage(&s, guest, backend, seed);
    do_start(&s);
    attach(&s);
    for (unsigned round = 0; round < ROUNDS; round++) {
        while (s.offered < REQUESTS / 2 && kit_percent(&s.rng, 75) && offer(&s))
            ;
        s.driver->ops->publish(s.driver);
        survive(&s, do_turn);
        while (kit_percent(&s.rng, 75) && take(&s))
            ;
        while (s.taken_count && kit_percent(&s.rng, 60))
            finish(&s);
        s.device->ops->publish(s.device);
        if (round == 1) {
            survive(&s, do_restart);
            attach(&s);
        }
        if (round == 2) {
            /* An end in order, or another one, so that there is something to be taken over. */
            if (seed % 2) {
                s.seen = 0; /* nobody asked the back-end what it has taken */
                survive(&s, do_detach);
            }
            svq_relay_free(s.relay);
            s.relay = NULL;
            survive(&s, do_start);
            attach(&s);
        }
    }
    close_stage(&s);
}

/* Every pair of formats, orders and plans for tables. */
static void play_all(bool packed_guest, bool packed_backend)
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
             order[1] | table[1] | (packed_backend ? PACKED : 0), i + 1);
    }
    print_message("# killed at %lu points\n", points);
    assert_true(points > (SANITIZED ? 25 : 500));
}

static void test_split_split(void **state)
{
    (void)state;
    play_all(false, false);
}

static void test_split_packed(void **state)
{
    (void)state;
    play_all(false, true);
}

static void test_packed_split(void **state)
{
    (void)state;
    play_all(true, false);
}

static void test_packed_packed(void **state)
{
    (void)state;
    play_all(true, true);
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
        cmocka_unit_test(test_split_split),
        cmocka_unit_test(test_split_packed),
        cmocka_unit_test(test_packed_split),
        cmocka_unit_test(test_packed_packed),
    };

    if (!can_trace()) {
        printf("1..0 # SKIP processes cannot be traced here\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
