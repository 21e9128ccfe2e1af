/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device's life: wait for a front-end, connect the back-end, serve until either leaves, begin
 * again. All of it runs in the device's own fiber; operators' commands are taken between two
 * messages and while waiting.
 */
#include "device/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKEND_SCHEME "vhost-user:"
#define BACKEND_RETRY  (50 * SVQ_MSEC)

/* ---- What happened ----------------------------------------------------------------------------
 */

void device_event(struct svq_device *device, enum svq_event_type type, const char *reason)
{
    const struct svq_event event = {.type = type, .id = device->id, .reason = reason};

    device->context->event(device->context->opaque, &event);
}

void device_error(struct svq_device *device, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(device->last_error, sizeof(device->last_error), format, args);
    va_end(args);
    svq_error(device->id, "%s", device->last_error);
    device_event(device, SVQ_EVENT_DEVICE_ERROR, device->last_error);
}

int device_backend_did(struct svq_device *device, int result)
{
    if (result < 0 && result != -EREMOTEIO && !device->s.over) {
        device->s.over = result == -ETIMEDOUT ? "back-end does not answer"
                         : result == -EPROTO  ? "back-end broke the protocol"
                                              : "back-end is gone";
        device_error(device, "%s: %s", device->s.over, strerror(-result));
    }
    return result;
}

/* ---- Commands ---------------------------------------------------------------------------------
 */

void device_run_commands(struct svq_device *device)
{
    struct command *command;

    while ((command = device->commands)) {
        device->commands = command->next;
        if (device->stopping)
            command->result = -ENODEV;
        else
            command->result = command->fn(device, command, &command->cause);
        command->done = true;
        svq_fiber_wake(command->waiter);
    }
}

/* Hand a command to the device's fiber and wait for it. */
static int run(struct svq_device *device, struct command *command, const char **cause)
{
    struct command **last = &device->commands;

    command->waiter = svq_fiber_self();
    command->cause = "Error enabling (see monitor)";
    while (*last)
        last = &(*last)->next;
    *last = command;
    svq_fiber_wake(device->fiber);
    while (!command->done)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
    *cause = command->cause;
    return command->result;
}

int svq_device_enable_shadow(struct svq_device *device, bool enable, const char **cause)
{
    struct command command = {.fn = shadow_command, .enable = enable};

    return run(device, &command, cause);
}

int svq_device_set_policy(struct svq_device *device, enum svq_shadow_policy policy,
                          const char **cause)
{
    struct command command = {.fn = shadow_policy_command, .policy = policy};

    return run(device, &command, cause);
}

/* ---- The fiber --------------------------------------------------------------------------------
 */

/* Return: the next front-end, -1 when the device is to stop. */
static int wait_for_frontend(struct svq_device *device)
{
    while (!device->stopping) {
        struct pollfd poll;
        int64_t deadline;
        int fd;

        /* First: what was ordered while a session ended woke us then, not here. */
        device_run_commands(device);
        fd = svq_frontend_next(device->frontend, &poll, &deadline);
        if (fd >= 0)
            return fd;
        svq_fiber_poll(&poll, 1, deadline);
    }
    return -1;
}

/* Return: why it cannot be had, or NULL. */
static const char *open_backend(struct svq_device *device)
{
    int64_t deadline = svq_deadline(device->message_timeout);
    struct svq_backend *backend = device->backend;
    bool told = false;

    while (!device->stopping) {
        struct pollfd poll = {.fd = device->s.fd, .events = POLLRDHUP};
        int64_t retry = svq_deadline(BACKEND_RETRY);
        int err;

        device_run_commands(device);
        err = backend->ops->open(backend);
        if (!err)
            return NULL;
        if (err != -ECONNREFUSED && err != -ENOENT && err != -EAGAIN)
            return "back-end is there but cannot be used";
        if (!told)
            svq_warning(device->id, "cannot connect to %s: %s; trying again",
                        device->backend_address, strerror(-err));
        told = true;
        if (svq_now() >= deadline)
            return "back-end cannot be reached";
        if (svq_fiber_poll(&poll, 1, retry < deadline ? retry : deadline) > 0)
            return "front-end left while the back-end was not there";
    }
    return "device was removed";
}

static void serve(struct svq_device *device)
{
    const char *why = open_backend(device);

    if (why) {
        if (!device->stopping)
            device_error(device, "%s (%s)", why, device->backend_address);
        return;
    }
    svq_info(device->id, "back-end connected, features 0x%llx, protocol features 0x%llx",
             (unsigned long long)device->backend->features,
             (unsigned long long)device->backend->protocol_features);
    device->s.backend_open = true;
    device_event(device, SVQ_EVENT_BACKEND_CONNECTED, NULL);
    setup_offer(device);
    why = session_serve(device);
    device->s.over = why;
}

static void device_main(void *arg)
{
    struct svq_device *device = arg;
    int fd;

    while ((fd = wait_for_frontend(device)) >= 0) {
        session_begin(device, fd);
        serve(device);
        session_end(device);
    }
    device_run_commands(device);
    device->ended = true;
    if (device->deleter)
        svq_fiber_wake(device->deleter);
}

/* ---- Making and ending ------------------------------------------------------------------------
 */

int svq_device_check_config(const struct svq_device_config *config, const char **why)
{
    size_t scheme = strlen(BACKEND_SCHEME);

    *why = NULL;
    if (!config->id || !*config->id)
        *why = "a device needs an id";
    else if (!config->frontend)
        *why = "a device needs frontend=PATH or frontend=connect:PATH";
    else if (!config->backend || strncmp(config->backend, BACKEND_SCHEME, scheme) ||
             !config->backend[scheme])
        *why = "a device needs backend=vhost-user:PATH";
    else if (config->message_timeout <= 0 || config->drain_timeout <= 0)
        *why = "timeouts must be more than 0 seconds";
    else
        *why = setup_check_rings(config->shadow, config->ring, config->offer);
    if (!*why)
        *why = svq_frontend_check(config->frontend);
    return *why ? -EINVAL : 0;
}

static void device_free(struct svq_device *device)
{
    svq_frontend_free(device->frontend);
    if (device->backend)
        device->backend->ops->free(device->backend);
    free(device->id);
    free(device->frontend_address);
    free(device->backend_address);
    free(device);
}

static int device_init(struct svq_device *device, const struct svq_device_config *config)
{
    int err;

    device->id = strdup(config->id);
    device->frontend_address = strdup(config->frontend);
    device->backend_address = strdup(config->backend);
    device->policy = config->shadow;
    device->dirty_log = config->dirty_log;
    device->ring = config->ring;
    device->offer = config->offer;
    device->message_timeout = config->message_timeout;
    device->s.fd = -1;
    if (!device->id || !device->frontend_address || !device->backend_address)
        return -ENOMEM;
    err = svq_backend_vhost_user_new(config->backend + strlen(BACKEND_SCHEME), &device->backend);
    if (err)
        return err;
    device->backend->tag = device->id;
    device->backend->message_timeout = config->message_timeout;
    device->backend->drain_timeout = config->drain_timeout;
    return svq_frontend_new(config->frontend, &device->frontend);
}

int svq_device_new(const struct svq_device_context *context, const struct svq_device_config *config,
                   struct svq_device **out)
{
    struct svq_device *device;
    const char *why;
    int err = svq_device_check_config(config, &why);

    if (err)
        return err;
    device = calloc(1, sizeof(*device));
    if (!device)
        return -ENOMEM;
    device->context = context;
    err = device_init(device, config);
    if (!err)
        err = svq_fiber_spawn(context->loop, device->id, device_main, device, &device->fiber);
    if (err) {
        device_free(device);
        return err;
    }
    *out = device;
    return 0;
}

void svq_device_delete(struct svq_device *device)
{
    device->deleter = svq_fiber_self();
    device->stopping = true;
    if (!device->ended)
        svq_fiber_wake(device->fiber);
    while (!device->ended)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
    device_free(device);
}

const char *svq_device_id(const struct svq_device *device)
{
    return device->id;
}
