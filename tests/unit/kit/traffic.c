/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "traffic.h"

#define PAGE 4096u

int traffic_event(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    kit_require(fd >= 0);
    return fd;
}

void traffic_ring(int fd)
{
    uint64_t one = 1;

    if (fd >= 0)
        kit_require(write(fd, &one, sizeof(one)) == sizeof(one));
}

static void hush(int fd)
{
    uint64_t count;

    if (fd >= 0 && read(fd, &count, sizeof(count)) < 0)
        kit_require(errno == EAGAIN);
}

/* ---- Guest --------------------------------------------------------------------------------- */

/*
 * A chain is a request of one word that says its number, and room for an answer of two; with
 * INDIRECT_DESC, half of them in a table.
 */
static bool offer_one(struct traffic_guest *g)
{
    unsigned buffer = g->spare[g->spare_count - 1];
    uint64_t gpa = g->buffers + (uint64_t)buffer * PAGE;
    struct kit_buf bufs[2] = {{gpa, 8, false}, {gpa + 64, 16, true}};
    unsigned direct = g->driver->indirect && kit_percent(&g->rng, 50) ? 0 : 2;
    struct kit_chain chain = {bufs, 2, direct, gpa + 1024, false, &g->sequence[buffer]};
    uint64_t *words = kit_memory_at(g->memory, gpa, PAGE);

    if (!g->driver->ops->add(g->driver, &chain))
        return false;
    g->spare_count--;
    g->sequence[buffer] = g->offered;
    words[0] = g->offered++;
    words[8] = words[9] = ~UINT64_C(0);
    g->outstanding++;
    return true;
}

static bool offer_some(struct traffic_guest *g)
{
    unsigned batch = kit_between(&g->rng, 1, g->batch), count = 0;

    while (count < batch && g->outstanding < g->depth && g->offered < g->chains && offer_one(g))
        count++;
    if (!count)
        return false;
    if (g->driver->ops->publish(g->driver)) {
        pthread_mutex_lock(&g->kick_lock);
        traffic_ring(g->kick);
        pthread_mutex_unlock(&g->kick_lock);
    }
    return true;
}

static bool reap_all(struct traffic_guest *g)
{
    struct kit_done done;
    bool any = false;
    int result;

    while ((result = g->driver->ops->reap(g->driver, &done)) > 0) {
        uint64_t *sequence = done.token;
        unsigned buffer = (unsigned)(sequence - g->sequence);
        uint64_t *words = kit_memory_at(g->memory, g->buffers + (uint64_t)buffer * PAGE, PAGE);

        if (done.len != 16 || words[8] != *sequence || words[9] != (*sequence ^ 0x5555))
            g->errors++;
        g->spare[g->spare_count++] = buffer;
        g->outstanding--;
        g->done++;
        any = true;
    }
    if (result < 0)
        g->errors++;
    return any;
}

/* Nothing to do: sleep until called. */
static void guest_sleep(struct traffic_guest *g)
{
    const struct kit_driver_ops *ops = g->driver->ops;
    struct pollfd fds[2] = {{.fd = g->call[0], .events = POLLIN},
                            {.fd = g->call[1], .events = POLLIN}};

    ops->interrupts(g->driver, true);
    if (!ops->pending(g->driver)) {
        if (poll(fds, 2, TRAFFIC_STALL_MS) == 0)
            g->stalled = true;
        hush(g->call[0]);
        hush(g->call[1]);
    }
    ops->interrupts(g->driver, false);
}

static void *guest_main(void *arg)
{
    struct traffic_guest *g = arg;

    while (g->done < g->chains && !g->stalled && !g->errors) {
        bool reaped = reap_all(g);
        bool offered = offer_some(g);

        if (!reaped && !offered)
            guest_sleep(g);
    }
    return NULL;
}

void traffic_guest_init(struct traffic_guest *g)
{
    g->driver = kit_driver_new(g->memory, &g->ring, g->features, g->base, NULL);
    g->rng.state = g->seed;
    g->spare = calloc(g->depth, sizeof(*g->spare));
    g->sequence = calloc(g->depth, sizeof(*g->sequence));
    kit_require(g->spare && g->sequence);
    for (g->spare_count = 0; g->spare_count < g->depth; g->spare_count++)
        g->spare[g->spare_count] = g->spare_count;
    kit_require(!pthread_mutex_init(&g->kick_lock, NULL));
}

void traffic_guest_start(struct traffic_guest *g)
{
    kit_require(!pthread_create(&g->thread, NULL, guest_main, g));
}

void traffic_guest_join(struct traffic_guest *g)
{
    kit_require(!pthread_join(g->thread, NULL));
}

void traffic_guest_free(struct traffic_guest *g)
{
    kit_driver_free(g->driver);
    pthread_mutex_destroy(&g->kick_lock);
    free(g->spare);
    free(g->sequence);
}

void traffic_guest_set_kick(struct traffic_guest *g, int fd)
{
    pthread_mutex_lock(&g->kick_lock);
    g->kick = fd;
    pthread_mutex_unlock(&g->kick_lock);
}

/* ---- Back-end ------------------------------------------------------------------------------ */

struct taken {
    uint16_t id;
    uint32_t len;
};

/* Answer every writable pair of words with the request's number. */
static uint32_t answer(struct traffic_backend *b, int count)
{
    uint64_t *request, *reply;

    if (count != 2 || b->bufs[0].write || !b->bufs[1].write || b->bufs[1].len != 16) {
        b->errors++;
        return 0;
    }
    request = kit_memory_at(b->memory, b->bufs[0].gpa, 8);
    reply = kit_memory_at(b->memory, b->bufs[1].gpa, 16);
    reply[0] = *request;
    reply[1] = *request ^ 0x5555;
    return 16;
}

static bool take_some(struct traffic_backend *b)
{
    struct kit_device *device = b->device;
    bool any = false;
    uint16_t id = 0;
    int count;

    while (b->taken_count < b->ring.num && (b->greedy || b->taken_count < 4) &&
           (count = device->ops->take(device, &id, b->bufs, b->ring.num)) != 0) {
        if (count < 0) {
            b->errors++;
            return false;
        }
        b->taken[b->taken_count++] = (struct taken){id, answer(b, count)};
        any = true;
    }
    return any;
}

static void complete_some(struct traffic_backend *b, bool all)
{
    struct kit_device *device = b->device;
    unsigned count = all ? b->taken_count : kit_between(&b->rng, 1, b->taken_count);

    while (count--) {
        unsigned i = device->in_order ? 0 : kit_below(&b->rng, b->taken_count);

        device->ops->complete(device, b->taken[i].id, b->taken[i].len, 1);
        b->taken_count--;
        memmove(b->taken + i, b->taken + i + 1, (b->taken_count - i) * sizeof(*b->taken));
    }
    if (device->ops->publish(device))
        traffic_ring(b->call);
}

static void backend_sleep(struct traffic_backend *b)
{
    struct kit_device *device = b->device;
    struct pollfd fds[2] = {{.fd = b->kick, .events = POLLIN},
                            {.fd = b->stop_event, .events = POLLIN}};

    device->ops->kicks(device, true);
    if (!device->ops->pending(device) && !b->stop) {
        poll(fds, 2, -1);
        hush(b->kick);
    }
    device->ops->kicks(device, false);
}

static void *backend_main(void *arg)
{
    struct traffic_backend *b = arg;

    while (!b->stop && !b->errors) {
        bool any = take_some(b);

        if (b->taken_count)
            complete_some(b, false);
        else if (!any)
            backend_sleep(b);
    }
    if (b->taken_count)
        complete_some(b, true);
    return NULL;
}

void traffic_backend_start(struct traffic_backend *b)
{
    b->device = kit_device_new(b->memory->map, &b->ring, b->features, b->base);
    b->device->tables = b->tables;
    b->rng.state = b->seed;
    b->bufs = calloc(b->ring.num, sizeof(*b->bufs));
    b->taken = calloc(b->ring.num, sizeof(*b->taken));
    kit_require(b->bufs && b->taken);
    b->stop = false;
    b->stop_event = traffic_event();
    kit_require(!pthread_create(&b->thread, NULL, backend_main, b));
}

uint32_t traffic_backend_stop(struct traffic_backend *b)
{
    uint32_t base;

    b->stop = true;
    traffic_ring(b->stop_event);
    kit_require(!pthread_join(b->thread, NULL));
    close(b->stop_event);
    free(b->bufs);
    free(b->taken);
    base = b->device->ops->stop(b->device);
    kit_device_free(b->device);
    b->device = NULL;
    return base;
}
