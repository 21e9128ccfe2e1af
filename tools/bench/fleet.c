/* SPDX-License-Identifier: BSD-3-Clause */
#include "fleet.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/*
 * Descriptors that a device takes, here or in svqd: for each queue a kick from the guest, and a
 * kick and a call for the back-end; three sockets, two files of memory, one more in reserve.
 */
#define FDS_PER_QUEUE  3u
#define FDS_PER_DEVICE 6u
#define FDS_MORE       200u

static bool fail(struct fleet *fleet, const char *what, const char *why)
{
    snprintf(fleet->error, sizeof(fleet->error), "%s%s%s", what, why ? ": " : "", why ? why : "");
    return false;
}

/* svqd inherits the limit. */
static bool raise_limit(struct fleet *fleet)
{
    rlim_t need = fleet->room * (fleet->config.queues * FDS_PER_QUEUE + FDS_PER_DEVICE) + FDS_MORE;
    struct rlimit limit;
    char text[120];

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return fail(fleet, "limit of open files", strerror(errno));
    if (limit.rlim_cur >= need)
        return true;
    limit.rlim_cur = need;
    if (limit.rlim_max < need)
        limit.rlim_max = need;
    if (!setrlimit(RLIMIT_NOFILE, &limit))
        return true;
    snprintf(text, sizeof(text), "%u devices need a limit of %u open files (ulimit -n)",
             fleet->room, (unsigned)need);
    return fail(fleet, text, strerror(errno));
}

bool fleet_open(struct fleet *fleet, const struct path_options *o,
                const struct guest_end_config *config, struct bench_loop *loop, unsigned room,
                unsigned busy, unsigned workers)
{
    /* Idle devices are to cost nothing: svqd's own idea of polling, not ours. */
    struct proxy_config proxy = {o->svqd, o->poll_us, workers, o->worker_cpu};
    int ret;

    *fleet = (struct fleet){.config = *config, .loop = loop, .room = room, .busy = busy};
    fleet->members = calloc(room, sizeof(fleet->members[0]));
    if (!fleet->members)
        return fail(fleet, "out of memory", NULL);
    if (!raise_limit(fleet))
        return false;
    if (proxy_start(&fleet->proxy, &proxy))
        return fail(fleet, fleet->proxy.error, NULL);
    ret = device_host_new(&fleet->host);
    return ret ? fail(fleet, "the devices", strerror(-ret)) : true;
}

static bool make(struct fleet *fleet, unsigned index)
{
    struct fleet_member *m = &fleet->members[index];
    struct bench_loop *loop = index < fleet->busy ? fleet->loop : NULL;
    struct guest_end_config config = fleet->config;
    struct device_end_config device = {config.queues, config.batch, config.spins};
    int ret;

    if (!loop)
        config.depth = 1;
    snprintf(m->id, sizeof(m->id), "dev%u", index);
    proxy_path(&fleet->proxy, m->frontend, sizeof(m->frontend), "f%u", index);
    proxy_path(&fleet->proxy, m->backend, sizeof(m->backend), "b%u", index);
    m->made = true;
    if (guest_end_init(&m->guest, &config, loop))
        return fail(fleet, m->guest.error, NULL);
    ret = device_end_new(fleet->host, m->backend, &device, loop, &m->device);
    return ret ? fail(fleet, "a device", strerror(-ret)) : true;
}

static bool join(struct fleet *fleet, unsigned index)
{
    struct fleet_member *m = &fleet->members[index];

    if (!m->made && !make(fleet, index))
        return false;
    if (proxy_add(&fleet->proxy, m->id, m->frontend, m->backend, true))
        return fail(fleet, fleet->proxy.error, NULL);
    if (guest_end_connect(&m->guest, m->frontend))
        return fail(fleet, m->guest.error, NULL);
    m->connected = true;
    fleet->count++;
    return true;
}

static bool leave(struct fleet *fleet, unsigned index)
{
    struct fleet_member *m = &fleet->members[index];

    m->connected = false;
    fleet->count--;
    if (guest_end_disconnect(&m->guest))
        return fail(fleet, m->guest.error, NULL);
    if (proxy_del(&fleet->proxy, m->id))
        return fail(fleet, fleet->proxy.error, NULL);
    return true;
}

bool fleet_resize(struct fleet *fleet, unsigned count)
{
    while (fleet->count < count) {
        if (path_interrupted())
            return fail(fleet, "interrupted", NULL);
        if (!join(fleet, fleet->count))
            return false;
    }
    while (fleet->count > count)
        if (!leave(fleet, fleet->count - 1))
            return false;
    return true;
}

bool fleet_renew(struct fleet *fleet, unsigned index)
{
    struct fleet_member *m = &fleet->members[index];
    struct guest_end_config config = m->guest.config;

    if (!leave(fleet, index))
        return false;
    guest_end_release(&m->guest);
    if (guest_end_init(&m->guest, &config, fleet->loop))
        return fail(fleet, m->guest.error, NULL);
    /* The device stays, and goes on counting. */
    for (unsigned i = 0; i < config.queues; i++)
        m->guest.drivers[i].done = device_end_flow(m->device, i)->done;
    return join(fleet, index);
}

void fleet_offer(struct fleet *fleet, bool offer)
{
    for (unsigned i = 0; i < fleet->busy; i++)
        if (fleet->members[i].connected)
            guest_end_offer(&fleet->members[i].guest, offer);
}

void fleet_close(struct fleet *fleet)
{
    for (unsigned i = 0; fleet->members && i < fleet->room; i++)
        if (fleet->members[i].connected)
            sim_guest_disconnect(fleet->members[i].guest.guest);
    proxy_stop(&fleet->proxy);
    for (unsigned i = 0; fleet->members && i < fleet->room; i++)
        if (fleet->members[i].made)
            guest_end_release(&fleet->members[i].guest);
    device_host_free(fleet->host);
    free(fleet->members);
    *fleet = (struct fleet){0};
}

struct question {
    struct fleet *fleet;
    uint64_t *counts;
    uint64_t ns;
    const char *fault;
};

static void read_counts(void *arg)
{
    struct question *q = arg;

    for (unsigned i = 0; i < q->fleet->busy; i++) {
        const struct fleet_member *m = &q->fleet->members[i];

        q->counts[i] = 0;
        for (unsigned k = 0; m->connected && k < q->fleet->config.queues; k++) {
            const struct flow_device *device = device_end_flow(m->device, k);
            const struct flow_driver *driver = &m->guest.drivers[k];

            q->counts[i] += driver->done;
            if (device->done < driver->done || device->done - driver->done > driver->in_flight)
                q->fault = "counts of guest and device disagree";
            if (driver->fault || device->fault)
                q->fault = driver->fault ? driver->fault : device->fault;
        }
    }
    q->ns = bench_now_ns();
}

bool fleet_counts(struct fleet *fleet, uint64_t *counts, uint64_t *ns)
{
    struct question q = {.fleet = fleet, .counts = counts};

    bench_loop_call(fleet->loop, read_counts, &q);
    *ns = q.ns;
    return q.fault ? fail(fleet, q.fault, NULL) : true;
}
