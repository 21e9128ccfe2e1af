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
    const char *why;

    if (result >= 0 || result == -EREMOTEIO)
        return result;
    if (link_up(device)) {
        why = result == -ETIMEDOUT ? "back-end does not answer"
              : result == -EPROTO  ? "back-end broke the protocol"
                                   : "back-end is gone";
        device_error(device, "%s: %s", why, strerror(-result));
        link_lost(device, why);
    }
    return -ENOTCONN;
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
        link_check(device);
        command->done = true;
        svq_fiber_wake(command->waiter);
    }
}

int device_command(struct svq_device *device, struct command *command, const char **cause)
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

    return device_command(device, &command, cause);
}

int svq_device_set_policy(struct svq_device *device, enum svq_shadow_policy policy,
                          const char **cause)
{
    struct command command = {.fn = shadow_policy_command, .policy = policy};

    return device_command(device, &command, cause);
}

int svq_device_set_worker(struct svq_device *device, unsigned index, int worker)
{
    struct svq_queue *queue = index < MAX_QUEUES ? device->s.queues[index] : NULL;
    struct svq_lane *lane;
    int err = 0;

    if (!queue)
        return -ENOENT;
    if (worker >= (int)svq_engine_workers(device->context->engine))
        return -EINVAL;
    /* In a switch it may be just about to start. */
    lane = queue->lane ? queue->lane : queue->spare;
    if (lane)
        err = svq_lane_pin(lane, worker);
    if (!err)
        queue->worker = worker;
    return err;
}

/* ---- The fiber --------------------------------------------------------------------------------
 */

/* Return: the next front-end, -1 when the device is to stop. */
static int wait_for_frontend(struct svq_device *device)
{
    while (!device->stopping) {
        struct pollfd poll[2];
        int64_t deadline;
        int fd;

        /* First: what was ordered while a session ended woke us then, not here. */
        device_run_commands(device);
        link_idle(device);
        fd = svq_frontend_next(device->frontend, &poll[0], &deadline);
        if (fd >= 0)
            return fd;
        poll[1] = (struct pollfd){.fd = -1, .events = POLLIN | POLLRDHUP};
        if (device->link.open)
            poll[1].fd = device->link.backend->ops->fd(device->link.backend);
        svq_fiber_poll(poll, 2, deadline);
    }
    return -1;
}

static void serve(struct svq_device *device)
{
    const char *why = link_connect(device);

    if (why) {
        device->s.over = why;
        if (!device->stopping)
            device_error(device, "%s (%s)", why, device->backend_address);
        return;
    }
    setup_offer(device);
    device->s.over = session_serve(device);
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
    *why = NULL;
    if (!config->id || !*config->id)
        *why = "a device needs an id";
    else if (!config->frontend)
        *why = "a device needs frontend=PATH or frontend=connect:PATH";
    else if (config->message_timeout <= 0 || config->drain_timeout <= 0)
        *why = "timeouts must be more than 0 seconds";
    else if (config->reconnect < 0)
        *why = "reconnect must be 0 seconds or more";
    else if (!(*why = svq_backend_check(config->backend)))
        *why = setup_check_rings(config->shadow, config->ring, config->offer);
    if (!*why)
        *why = svq_frontend_check(config->frontend);
    return *why ? -EINVAL : 0;
}

static void device_free(struct svq_device *device)
{
    svq_frontend_free(device->frontend);
    if (device->link.backend) {
        link_close(&device->link);
        device->link.backend->ops->free(device->link.backend);
    }
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
    device->reconnect = config->reconnect;
    device->keep_backend = config->keep_backend;
    device->descriptors = config->descriptors;
    device->poll_us = config->poll_us;
    device->s.fd = device->s.log_fd = -1;
    if (!device->id || !device->frontend_address || !device->backend_address)
        return -ENOMEM;
    err = svq_backend_new(config->backend, &device->link.backend);
    if (err)
        return err;
    device->link.backend->tag = device->id;
    device->link.backend->message_timeout = config->message_timeout;
    device->link.backend->drain_timeout = config->drain_timeout;
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
