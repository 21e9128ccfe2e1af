/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "daemon/addresses.h"
#include "event/fiber.h"

/* A fiber in the queue for an entry; lives on that fiber's stack. */
struct waiter {
    struct waiter *next;
    struct svq_fiber *fiber;
    bool woken; /* out of the queue: look again */
};

struct entry {
    struct entry *next;
    struct svq_device *device;
    char *id;
    bool held;
    bool leaving; /* being deleted: not to be found any more, but its names are still taken */
    struct waiter *waiters;
};

struct svq_registry {
    struct svq_device_context context;
    struct entry *entries;
    bool closed;
};

struct svq_registry *svq_registry_new(const struct svq_device_context *context)
{
    struct svq_registry *registry = calloc(1, sizeof(*registry));

    if (registry)
        registry->context = *context;
    return registry;
}

void svq_registry_free(struct svq_registry *registry)
{
    free(registry);
}

static struct entry *find_entry(const struct svq_registry *registry, const char *id)
{
    struct entry *entry;

    for (entry = registry->entries; entry; entry = entry->next) {
        if (!entry->leaving && strcmp(entry->id, id) == 0)
            return entry;
    }
    return NULL;
}

static struct entry *entry_of(const struct svq_registry *registry, const struct svq_device *device)
{
    struct entry *entry;

    for (entry = registry->entries; entry; entry = entry->next) {
        if (entry->device == device)
            return entry;
    }
    return NULL;
}

/* How a device compares with others now: a command may have changed its back-end. */
static int compare(const struct entry *entry, const struct svq_device_config *added,
                   struct svq_failure *failure)
{
    struct svq_device_info info;
    struct svq_device_config other = {.id = entry->id};

    svq_device_info(entry->device, &info);
    other.frontend = info.frontend;
    other.backend = info.backend;
    return svq_addresses_compare(&other, added, failure) < 0 ? -EEXIST : 0;
}

static int check_new(const struct svq_registry *registry, const struct svq_device_config *config,
                     struct svq_failure *failure)
{
    const struct entry *entry;

    if (registry->closed) {
        svq_fail(failure, "svqd is shutting down");
        return -ESHUTDOWN;
    }
    for (entry = registry->entries; entry; entry = entry->next) {
        if (strcmp(entry->id, config->id) == 0) {
            svq_fail(failure, "Duplicate ID '%s' for device", config->id);
            return -EEXIST;
        }
        if (compare(entry, config, failure) < 0)
            return -EEXIST;
    }
    return 0;
}

static void free_entry(struct entry *entry)
{
    if (!entry)
        return;
    free(entry->id);
    free(entry);
}

/* It may be either of two sockets: the device makes both. */
static void cannot_start(const struct svq_device_config *config, int error,
                         struct svq_failure *failure)
{
    bool both = svq_backend_listens(config->backend);

    svq_fail(failure, "Can't start device '%s' with front-end '%s'%s%s%s: %s", config->id,
             config->frontend, both ? " and back-end '" : "", both ? config->backend : "",
             both ? "'" : "", strerror(-error));
    if (error == -EADDRINUSE)
        svq_fail_hint(failure, "Something listens on %s already",
                      both ? "one of these sockets" : "that socket");
}

int svq_registry_add(struct svq_registry *registry, const struct svq_device_config *config,
                     struct svq_failure *failure)
{
    struct entry **tail = &registry->entries;
    struct entry *entry;
    int ret;

    ret = check_new(registry, config, failure);
    if (ret < 0)
        return ret;
    entry = calloc(1, sizeof(*entry));
    if (entry)
        entry->id = strdup(config->id);
    if (!entry || !entry->id)
        ret = -ENOMEM;
    else
        ret = svq_device_new(&registry->context, config, &entry->device);
    if (ret < 0) {
        cannot_start(config, ret, failure);
        free_entry(entry);
        return ret;
    }
    /* At the end: status shows devices in the order they were given. */
    while (*tail)
        tail = &(*tail)->next;
    *tail = entry;
    return 0;
}

int svq_registry_check_backend(const struct svq_registry *registry, const struct svq_device *device,
                               const char *address, struct svq_failure *failure)
{
    struct svq_device_config config = {.backend = address};
    struct svq_device_info info;
    const struct entry *entry;
    int ret;

    svq_device_info(device, &info);
    config.id = info.id;
    config.frontend = info.frontend;
    ret = svq_addresses_check(&config, failure);
    for (entry = registry->entries; entry && ret == 0; entry = entry->next) {
        if (entry->device != device)
            ret = compare(entry, &config, failure);
    }
    return ret;
}

static void wait_in_queue(struct entry *entry)
{
    struct waiter waiter = {.fiber = svq_fiber_self()};
    struct waiter **tail = &entry->waiters;

    while (*tail)
        tail = &(*tail)->next;
    *tail = &waiter;
    /* A wake may be somebody else's, left over: only the flag counts. */
    while (!waiter.woken)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
}

static bool wake_first(struct entry *entry)
{
    struct waiter *waiter = entry->waiters;

    if (!waiter)
        return false;
    entry->waiters = waiter->next;
    waiter->woken = true;
    svq_fiber_wake(waiter->fiber);
    return true;
}

static struct entry *hold_entry(struct svq_registry *registry, const char *id)
{
    struct entry *entry;

    while ((entry = find_entry(registry, id)) && entry->held)
        wait_in_queue(entry);
    if (entry)
        entry->held = true;
    return entry;
}

struct svq_device *svq_registry_hold(struct svq_registry *registry, const char *id)
{
    struct entry *entry = hold_entry(registry, id);

    return entry ? entry->device : NULL;
}

void svq_registry_release(struct svq_registry *registry, struct svq_device *device)
{
    struct entry *entry = entry_of(registry, device);

    entry->held = false;
    wake_first(entry);
}

static void delete_held(struct svq_registry *registry, struct entry *entry)
{
    struct entry **link = &registry->entries;

    entry->leaving = true;
    while (wake_first(entry))
        continue;
    svq_device_delete(entry->device);
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    free_entry(entry);
}

int svq_registry_delete(struct svq_registry *registry, const char *id)
{
    struct entry *entry = hold_entry(registry, id);

    if (!entry)
        return -ENODEV;
    delete_held(registry, entry);
    return 0;
}

/* The first device nobody is deleting yet, or NULL. */
static struct entry *first_staying(const struct svq_registry *registry)
{
    struct entry *entry = registry->entries;

    while (entry && entry->leaving)
        entry = entry->next;
    return entry;
}

void svq_registry_delete_all(struct svq_registry *registry)
{
    struct entry *entry;

    registry->closed = true;
    while ((entry = first_staying(registry))) {
        if (entry->held)
            wait_in_queue(entry);
        else
            delete_held(registry, entry);
    }
    /* What remains is in the hands of other fibers, which are deleting it. */
    while (registry->entries)
        svq_fiber_sleep(10 * SVQ_MSEC);
}

const struct svq_device *svq_registry_next(const struct svq_registry *registry,
                                           const struct svq_device *device)
{
    const struct entry *entry = registry->entries;

    if (device)
        entry = entry_of(registry, device)->next;
    while (entry && entry->leaving)
        entry = entry->next;
    return entry ? entry->device : NULL;
}

const struct svq_device *svq_registry_find(const struct svq_registry *registry, const char *id)
{
    struct entry *entry = find_entry(registry, id);

    return entry ? entry->device : NULL;
}
