/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The connection to the back-end: made for a front-end, lost, and made again.
 *
 *      NONE --connect--> UP --loss--> LOST --fits--> UP
 *                                     LOST <-----> REFUSED: somebody is there, but does not fit
 *
 * A loss may show anywhere, in the middle of a switch as well. Then it is only noted: whatever was
 * being done meets an error at its next step and unwinds without touching rings that the dead
 * back-end has. When that is over, link_check() pauses the rings and says what comes next.
 */
#include "device/internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Between attempts: the first, then twice as long each time, up to reconnect=. */
#define FIRST_RETRY (50 * SVQ_MSEC)
/* However eagerly somebody connects to a socket of ours. */
#define LEAST_PAUSE (10 * SVQ_MSEC)
/* For the first answers of one that may have come back. */
#define ATTEMPT_LIMIT (2 * SVQ_SEC)

/* ---- Making it ----------------------------------------------------------------------------------
 */

static bool nobody_there(int err)
{
    return err == -ECONNREFUSED || err == -ENOENT || err == -EAGAIN;
}

static void is_up(struct svq_device *device)
{
    const struct svq_backend *backend = device->link.backend;

    device->link.open = true;
    svq_info(device->id, "back-end connected, features 0x%llx, protocol features 0x%llx",
             (unsigned long long)backend->features, (unsigned long long)backend->protocol_features);
    device_event(device, SVQ_EVENT_BACKEND_CONNECTED, NULL);
}

const char *link_connect(struct svq_device *device)
{
    int64_t deadline = svq_deadline(device->message_timeout);
    bool told = false;

    while (!device->stopping && !device->link.open) {
        struct svq_backend *backend = device->link.backend;
        struct pollfd fds[] = {{.fd = device->s.fd, .events = POLLRDHUP}, {.events = POLLIN}};
        int64_t retry = svq_deadline(FIRST_RETRY);
        int err;

        device_run_commands(device);
        /* A command may have changed the back-end, and have connected it. */
        if (device->stopping || device->link.open)
            break;
        err = backend->ops->open(backend);
        if (!err) {
            is_up(device);
            break;
        }
        if (err == -EMFILE)
            return "too many open files";
        if (!nobody_there(err))
            return "back-end is there but cannot be used";
        if (!told)
            svq_warning(device->id, "cannot connect to %s: %s; trying again",
                        device->backend_address, strerror(-err));
        told = true;
        if (svq_now() >= deadline)
            return "back-end cannot be reached";
        fds[1].fd = backend->ops->wait_fd(backend);
        svq_fiber_poll(fds, 2, retry < deadline ? retry : deadline);
        if (fds[0].revents)
            return "front-end left while the back-end was not there";
    }
    if (device->stopping)
        return "device was removed";
    device->outage.state = SVQ_LINK_UP;
    return NULL;
}

void link_close(struct link *link)
{
    link->backend->ops->close(link->backend);
    svq_region_file_unref(link->rings);
    *link = (struct link){.backend = link->backend, .lazy = link->lazy};
}

/* ---- Losing it ----------------------------------------------------------------------------------
 */

static void schedule(struct svq_device *device)
{
    struct outage *outage = &device->outage;

    outage->tried = svq_now();
    outage->next = svq_deadline(outage->delay);
    outage->delay *= 2;
    if (outage->delay > device->reconnect)
        outage->delay = device->reconnect;
}

/*
 * Close the connection. What its back-end had is what the session rests on, until another one has
 * been accepted; its shadow rings stay with the relays.
 */
static void forsake(struct svq_device *device)
{
    struct svq_backend *backend = device->link.backend;
    uint64_t features = backend->features, protocol = backend->protocol_features;
    uint64_t acked = backend->protocol_acked;

    link_close(&device->link);
    backend->features = features;
    backend->protocol_features = protocol;
    backend->protocol_acked = acked;
}

void link_lost(struct svq_device *device, const char *why)
{
    struct outage *outage = &device->outage;

    if (!link_up(device))
        return;
    outage->state = SVQ_LINK_LOST;
    outage->unchecked = true;
    snprintf(outage->reason, sizeof(outage->reason), "%s", why);
    outage->since = svq_now();
    outage->attempts = 0;
    outage->resubmitted_before = recover_resubmitted(device);
    outage->delay = FIRST_RETRY < device->reconnect ? FIRST_RETRY : device->reconnect;
    schedule(device);
    forsake(device);
}

/* The outage's reason is followed by why it cannot be recovered from. */
static void add_obstacle(struct svq_device *device, const char *obstacle)
{
    struct outage *outage = &device->outage;
    size_t used = strlen(outage->reason);

    snprintf(outage->reason + used, sizeof(outage->reason) - used, "; cannot recover: %s",
             obstacle);
}

static void tell_lost(struct svq_device *device, bool recovering)
{
    const struct svq_event event = {
        .type = SVQ_EVENT_BACKEND_DISCONNECTED,
        .id = device->id,
        .reason = device->outage.reason,
        .recovering = recovering,
    };

    device->context->event(device->context->opaque, &event);
}

void link_check(struct svq_device *device)
{
    struct outage *outage = &device->outage;
    const char *obstacle = NULL;

    if (!outage->unchecked)
        return;
    outage->unchecked = false;
    if (device->reconnect)
        obstacle = recover_strand(device);
    if (device->reconnect && !obstacle && !device->s.over) {
        outage->count++;
        svq_warning(device->id, "%s; its queues are paused until it is back", outage->reason);
        tell_lost(device, true);
        return;
    }
    tell_lost(device, false);
    outage->state = SVQ_LINK_NONE;
    if (obstacle)
        add_obstacle(device, obstacle);
    if (!device->s.over)
        device->s.over = outage->reason;
}

/* ---- Getting it back ----------------------------------------------------------------------------
 */

struct pollfd link_poll(const struct svq_device *device, int64_t *deadline)
{
    const struct svq_backend *backend = device->link.backend;

    *deadline = SVQ_FOREVER;
    if (link_up(device))
        return (struct pollfd){.fd = backend->ops->fd(backend), .events = POLLIN | POLLRDHUP};
    *deadline = device->outage.next;
    if (svq_now() < device->outage.tried + LEAST_PAUSE) {
        if (*deadline > device->outage.tried + LEAST_PAUSE)
            *deadline = device->outage.tried + LEAST_PAUSE;
        return (struct pollfd){.fd = -1};
    }
    return (struct pollfd){.fd = backend->ops->wait_fd(backend), .events = POLLIN};
}

bool link_due(const struct svq_device *device, const struct pollfd *fd)
{
    return !link_up(device) && (fd->revents || svq_now() >= device->outage.next);
}

/* The one that came does not fit. Said once, not at every attempt. */
static void refuse(struct svq_device *device, const char *why)
{
    struct outage *outage = &device->outage;
    bool news = outage->state != SVQ_LINK_REFUSED || strcmp(outage->reason, why);

    outage->state = SVQ_LINK_REFUSED;
    outage->delay = device->reconnect;
    if (!news)
        return;
    snprintf(outage->reason, sizeof(outage->reason), "%s", why);
    device_error(device, "the back-end that came back does not fit: %s; the queues stay paused",
                 outage->reason);
    device_event(device, SVQ_EVENT_BACKEND_REFUSED, outage->reason);
}

static void recovered(struct svq_device *device)
{
    struct outage *outage = &device->outage;
    const struct svq_event event = {
        .type = SVQ_EVENT_BACKEND_RECOVERED,
        .id = device->id,
        .microseconds = (svq_now() - outage->since) / SVQ_USEC,
        .attempts = outage->attempts,
        .resubmitted = recover_resubmitted(device) - outage->resubmitted_before,
    };

    outage->state = SVQ_LINK_UP;
    outage->last_us = event.microseconds;
    outage->ended = true;
    svq_info(device->id, "recovered after %.1f ms, %llu attempts; %llu requests resubmitted",
             (double)event.microseconds / 1000, (unsigned long long)event.attempts,
             (unsigned long long)event.resubmitted);
    device->context->event(device->context->opaque, &event);
    recover_finish(device);
}

/* It was there, and may have begun to serve rings. */
static void try_failed(struct svq_device *device)
{
    const char *obstacle = recover_strand(device);

    if (!obstacle)
        return;
    add_obstacle(device, obstacle);
    device->s.over = device->outage.reason;
}

int link_take_over(struct svq_device *device)
{
    char text[160];
    int err;

    device->link.open = true;
    err = introduce(device, text, sizeof(text));
    if (err == -EREMOTEIO) {
        refuse(device, text);
        return err;
    }
    if (!err) {
        err = recover_rings(device);
        if (err == -EREMOTEIO)
            refuse(device, "it refused the queues' settings");
        else if (err == -EINVAL || err == -EBADMSG)
            refuse(device, device->last_error); /* what is wrong with which queue */
    }
    if (err) {
        try_failed(device);
        return err;
    }
    is_up(device);
    recovered(device);
    return 0;
}

/* A frozen back-end has a queue of connections that it does not look at: do not wait long there. */
static int open_quickly(struct svq_backend *backend)
{
    int64_t patience = backend->message_timeout;
    int err;

    if (patience > ATTEMPT_LIMIT)
        backend->message_timeout = ATTEMPT_LIMIT;
    err = backend->ops->open(backend);
    backend->message_timeout = patience;
    return err;
}

void link_try(struct svq_device *device)
{
    struct svq_backend *backend = device->link.backend;
    const struct svq_backend before = *backend;
    int err;

    device->outage.attempts++;
    err = open_quickly(backend);
    if (!err && !link_take_over(device)) {
        link_check(device); /* its first orders may have been its last */
        return;
    }
    if (!err)
        link_close(&device->link);
    else if (!nobody_there(err) && device->outage.attempts == 1)
        svq_warning(device->id, "%s: %s; trying again", device->backend_address, strerror(-err));
    *backend = before;
    schedule(device);
}

bool link_wait(struct svq_device *device)
{
    int64_t limit = device->outage.since + device->message_timeout;

    link_check(device);
    if (!link_up(device) && !device->s.over && svq_now() >= device->outage.tried + LEAST_PAUSE)
        link_try(device);
    while (!link_up(device) && !device->s.over && !device->stopping && svq_now() < limit) {
        struct pollfd fds[] = {{.fd = device->s.fd, .events = POLLRDHUP}, {.fd = -1}};
        int64_t retry;

        fds[1] = link_poll(device, &retry);
        svq_fiber_poll(fds, 2, retry < limit ? retry : limit);
        if (fds[0].revents)
            break;
        if (link_due(device, &fds[1]))
            link_try(device);
    }
    return link_up(device);
}

/* ---- Between front-ends -------------------------------------------------------------------------
 */

/* Rings stopped, memory taken away: ready for the next front-end? */
static bool made_idle(struct svq_device *device)
{
    int64_t deadline = svq_deadline(device->link.backend->drain_timeout);

    /* Of one that has requests left, completions would come among those of the next session. */
    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE && (queue->fault || wire_halt(queue, deadline)))
            return false;
    return !memory_withdraw(device);
}

void link_leave(struct svq_device *device, const char *why)
{
    bool open = device->link.open, keep = device->keep_backend && open && !device->stopping;

    if (!keep || !made_idle(device)) {
        if (open)
            device_event(device, SVQ_EVENT_BACKEND_DISCONNECTED, why);
        link_close(&device->link);
    }
    device->outage.state = SVQ_LINK_NONE;
    device->outage.unchecked = false;
}

void link_idle(struct svq_device *device)
{
    const struct svq_backend *backend = device->link.backend;
    char byte;

    if (!device->link.open ||
        (recv(backend->ops->fd(backend), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN))
        return;
    svq_info(device->id, "back-end closed the connection");
    device_event(device, SVQ_EVENT_BACKEND_DISCONNECTED, "back-end closed the connection");
    link_close(&device->link);
}
