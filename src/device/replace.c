/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Another back-end, by command. The new one is connected by whoever asks, so that the device goes
 * on meanwhile; it is checked and told everything while the old one still serves. Only then the old
 * one is drained, and the rings go over: that is the pause.
 *
 * Until the rings have arrived the old one is kept: should the new one fail, they go back.
 */
#include "device/internal.h"
#include "event/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY (50 * SVQ_MSEC)

static int fail(struct svq_device *device, const char **cause, int err, const char *why)
{
    snprintf(device->why_not, sizeof(device->why_not), "%s", why);
    *cause = device->why_not;
    return err;
}

/* ---- The new one is in office -------------------------------------------------------------------
 */

/* The device's back-end is another one; the one it had is closed. */
static void take_office(struct svq_device *device, struct command *command,
                        struct svq_backend *predecessor)
{
    char *address = strdup(command->address);

    predecessor->ops->free(predecessor);
    command->backend = NULL;
    if (!address)
        return; /* status shows the old address; all else is well */
    free(device->backend_address);
    device->backend_address = address;
}

static void tell_changed(struct svq_device *device, uint64_t microseconds)
{
    const struct svq_event event = {
        .type = SVQ_EVENT_BACKEND_CHANGED,
        .id = device->id,
        .address = device->backend_address,
        .microseconds = microseconds,
    };

    svq_info(device->id, "back-end is %s now, queues paused for %.1f ms", event.address,
             (double)microseconds / 1000);
    device->context->event(device->context->opaque, &event);
}

/* Nobody needs a back-end now. */
static int replace_idle(struct svq_device *device, struct command *command)
{
    struct svq_backend *old = device->link.backend;
    bool waiting = device->s.fd >= 0;

    link_close(&device->link);
    device->link = (struct link){.backend = command->backend, .open = true};
    take_office(device, command, old);
    if (waiting || device->keep_backend)
        device_event(device, SVQ_EVENT_BACKEND_CONNECTED, NULL);
    else
        link_close(&device->link);
    tell_changed(device, 0);
    return 0;
}

/* The old one is gone: the outage ends with the new one, if that fits. */
static int replace_lost(struct svq_device *device, struct command *command, const char **cause)
{
    const struct outage before = device->outage;
    struct link old = device->link;
    int err;

    device->link = (struct link){.backend = command->backend};
    err = link_take_over(device);
    if (err) {
        link_close(&device->link);
        device->link = old;
        fail(device, cause, err,
             device->outage.state == SVQ_LINK_REFUSED
                 ? device->outage.reason
                 : "the new back-end failed when the queues were started");
        /* It is still the old one that is awaited. */
        if (!device->s.over)
            device->outage = before;
        return err;
    }
    command->microseconds = device->outage.last_us;
    take_office(device, command, old.backend);
    tell_changed(device, command->microseconds);
    return 0;
}

/* ---- One that serves ----------------------------------------------------------------------------
 */

/* The new one has failed with the rings in its hands, or before it had all of them. */
static void go_back(struct svq_device *device, const struct link *old)
{
    const char *obstacle;

    link_close(&device->link);
    device->link = *old;
    obstacle = recover_strand(device);
    if (!obstacle && !recover_rings(device)) {
        device->outage.state = SVQ_LINK_UP;
        recover_finish(device);
        return;
    }
    if (obstacle) {
        /* Nobody may go on from where they were: the new one has done some of it. */
        device_error(device, "the queues cannot go back to the old back-end: %s", obstacle);
        device->s.over = "the new back-end failed, and the old one cannot go on";
    }
    device->outage.state = SVQ_LINK_UP;
    link_lost(device, "neither the new back-end nor the old one can go on");
    link_check(device);
}

/* All rings are at rest: hand them over. */
static int hand_over(struct svq_device *device, struct link *fresh)
{
    struct link old = device->link;
    int err;

    /* What the old one has not taken is in the guest's rings again. */
    wire_dismantle_all(device);
    device->link = *fresh;
    /* As in an outage: what fails is the newcomer's affair, until it serves. */
    device->outage.state = SVQ_LINK_LOST;
    err = recover_rings(device);
    relay_drop_spares(device);
    if (err) {
        go_back(device, &old);
        return err;
    }
    device->outage.state = SVQ_LINK_UP;
    *fresh = old;
    recover_finish(device);
    return 0;
}

/* Check the new one and tell it everything; the old one serves meanwhile. */
static int prepare(struct svq_device *device, struct svq_backend *backend, struct link *fresh,
                   const char **cause)
{
    struct link serving = device->link;
    char text[160];
    int err;

    device->link = (struct link){.backend = backend, .open = true};
    err = introduce(device, text, sizeof(text));
    *fresh = device->link;
    device->link = serving;
    if (!err)
        return 0;
    if (err != -EREMOTEIO)
        snprintf(text, sizeof(text), "it cannot be used: %s", strerror(-err));
    return fail(device, cause, err, text);
}

/* The queues are with the new back-end from now on, or with the old one as before: *moved. */
static int move(struct svq_device *device, struct command *command, struct link *fresh, bool *moved,
                const char **cause)
{
    int64_t began = svq_now();
    int err = shadow_pause(device);

    if (err == -ETIMEDOUT)
        return fail(device, cause, err,
                    "the old back-end does not complete what it took; it goes on");
    if (err)
        return fail(device, cause, err, "the old back-end was lost meanwhile; try again");
    *moved = true;
    err = hand_over(device, fresh);
    if (err)
        return fail(device, cause, err, "the new back-end failed when the queues were started");
    command->microseconds = (svq_now() - began) / SVQ_USEC;
    return 0;
}

static int replace_serving(struct svq_device *device, struct command *command, const char **cause)
{
    struct link fresh;
    bool moved = false;
    int err = prepare(device, command->backend, &fresh, cause);

    if (!err) {
        svq_prompt_hurry();
        err = move(device, command, &fresh, &moved, cause);
        svq_prompt_relax();
    }
    if (!moved) {
        /* Its predecessor has lost its end of the channel to it. */
        if (link_up(device))
            device_told(device, channel_introduce(device));
        link_close(&fresh);
    }
    if (err)
        return err;
    /* What was fresh is the old one now. */
    link_close(&fresh);
    take_office(device, command, fresh.backend);
    tell_changed(device, command->microseconds);
    return 0;
}

int replace_command(struct svq_device *device, struct command *command, const char **cause)
{
    if (device->stopping || device->s.over)
        return fail(device, cause, -EAGAIN, "the front-end is just leaving; try again");
    if (device->outage.state == SVQ_LINK_NONE)
        return replace_idle(device, command);
    if (link_up(device))
        return replace_serving(device, command, cause);
    return replace_lost(device, command, cause);
}

/* ---- The command --------------------------------------------------------------------------------
 */

static int reach(struct svq_backend *backend)
{
    int64_t deadline = svq_deadline(backend->message_timeout);

    for (;;) {
        int err = backend->ops->open(backend);
        int64_t retry = svq_deadline(RETRY);

        if ((err != -ECONNREFUSED && err != -ENOENT && err != -EAGAIN) || svq_now() >= deadline)
            return err;
        svq_fiber_poll(NULL, 0, retry < deadline ? retry : deadline);
    }
}

static int make_backend(struct svq_device *device, const char *address, struct svq_backend **out)
{
    struct svq_backend *present = device->link.backend;
    int err;

    /* A path that we listen on cannot be bound twice. */
    if (!strcmp(address, device->backend_address))
        err = present->ops->another(present, out);
    else
        err = svq_backend_new(address, out);
    if (err)
        return err;
    (*out)->tag = device->id;
    /* The present one's is shorter while it is being tried. */
    (*out)->message_timeout = device->message_timeout;
    (*out)->drain_timeout = present->drain_timeout;
    return 0;
}

/*
 * One change at a time: a back-end serves one connection, so that those of several changes would
 * wait for one another.
 */
static void take_turn(struct svq_device *device, struct changer *self)
{
    struct changer **last = &device->changers;

    *self = (struct changer){.fiber = svq_fiber_self()};
    while (*last)
        last = &(*last)->next;
    *last = self;
    while (device->changers != self)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
}

static void end_turn(struct svq_device *device)
{
    device->changers = device->changers->next;
    if (device->changers)
        svq_fiber_wake(device->changers->fiber);
}

static int change(struct svq_device *device, const char *address, uint64_t *microseconds,
                  const char **cause)
{
    struct command command = {.fn = replace_command, .address = address};
    char text[256];
    int err = make_backend(device, address, &command.backend);

    if (err) {
        snprintf(text, sizeof(text), "cannot use %s: %s", address, strerror(-err));
        return fail(device, cause, err, text);
    }
    err = reach(command.backend);
    if (err) {
        snprintf(text, sizeof(text), "cannot connect to %s: %s", address, strerror(-err));
        fail(device, cause, err, text);
    } else {
        err = device_command(device, &command, cause);
    }
    if (command.backend)
        command.backend->ops->free(command.backend);
    *microseconds = command.microseconds;
    return err;
}

int svq_device_set_backend(struct svq_device *device, const char *address, uint64_t *microseconds,
                           const char **cause)
{
    const char *why = svq_backend_check(address);
    struct changer self;
    int err;

    if (why)
        return fail(device, cause, -EINVAL, why);
    take_turn(device, &self);
    err = change(device, address, microseconds, cause);
    end_turn(device);
    return err;
}
