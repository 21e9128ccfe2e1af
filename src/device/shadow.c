/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The switch between pass-through and shadow, after the eight steps that the RFC's reviewers drew
 * up for it: stop every ring and learn its index, wait until what the back-end took is complete,
 * give the back-end the other rings from that index on, wake everybody.
 *
 * All rings or none: as soon as one step fails, everything done so far is undone and the device
 * goes on in its old mode. Only a back-end that can no longer be talked to leaves nothing to go
 * back to; then the rings stay as they are for its successor (recover.c).
 */
#include "device/internal.h"
#include "event/prompt.h"

#define CAUSE_FAILED "Error enabling (see monitor)"

bool shadow_device_started(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->started)
            return true;
    return false;
}

bool shadow_device_wired(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE)
            return true;
    return false;
}

const char *shadow_obstacle(struct svq_device *device)
{
    if (device_acked(device, SVQ_F_ACCESS_PLATFORM))
        return "Device use IOMMU";
    for_each_queue(device, i, queue) {
        if (!queue->started || !queue->big_endian)
            continue;
        device_error(device, "cannot be shadowed: queue %u is big endian", queue->index);
        return CAUSE_FAILED;
    }
    return NULL;
}

bool shadow_wanted(const struct svq_device *device)
{
    if (device->s.bound)
        return true;
    /* Without a shadow the log would miss what the back-end writes; that comes before any policy.
     */
    if (device->s.logging && !device->s.log_backend)
        return true;
    if (device->policy == SVQ_SHADOW_OFF)
        return false;
    if (device->s.order != ORDER_NONE)
        return device->s.order == ORDER_SHADOW;
    return device->policy == SVQ_SHADOW_ON;
}

/* ---- Steps --------------------------------------------------------------------------------------
 */

static int flush(struct svq_device *device)
{
    return device_backend_did(device, device->link.backend->ops->flush(device->link.backend));
}

/* What is told from now on goes out together, with the next flush(). */
static void gather(struct svq_device *device)
{
    device->link.backend->ops->gather(device->link.backend);
}

/* What was told before something failed goes out as well: its fds may be closed soon. */
static int all_told(struct svq_device *device, int err)
{
    int sent = device_backend_did(device, device->link.backend->ops->push(device->link.backend));

    return err ? err : sent;
}

/* Stop every ring that is with the back-end. */
static int halt_all(struct svq_device *device)
{
    return wire_halt_all(device, svq_deadline(device->link.backend->drain_timeout));
}

/* Start every ring that has been described to the back-end. */
static int start_all(struct svq_device *device)
{
    int err = flush(device), acked;

    if (err)
        return err;
    gather(device);
    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE && !queue->handed && !err)
            err = wire_start(queue);
    err = all_told(device, err);
    if (err)
        return err;
    /* Relays get under way while the back-end does. */
    err = wire_shadow_go_all(device);
    acked = flush(device);
    return err ? err : acked;
}

static int describe_all(struct svq_device *device)
{
    int err = 0;

    gather(device);
    for_each_queue(device, i, queue)
        if (queue->wire == WIRE_NONE && queue_runs(queue) && !err)
            err = device->s.shadow ? wire_shadow(queue) : wire_direct(queue);
    return all_told(device, err);
}

/* Connect every ring that runs in the mode that the device has now. */
int shadow_wire_all(struct svq_device *device)
{
    int err = shadow_device_wired(device) ? 0 : inflight_tell(device);

    if (!err)
        err = describe_all(device);
    return err ? err : start_all(device);
}

void shadow_wake_all(struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE)
            wire_wake(queue);
}

/* Take the rings back from the back-end, however far it got with them. */
static void unwire_all(struct svq_device *device)
{
    for_each_queue(device, i, queue) {
        if (queue->wire != WIRE_NONE && !queue->halted)
            wire_halt(queue, svq_deadline(device->link.backend->drain_timeout));
        if (!link_up(device))
            return; /* what a relay has in flight is not to be lost with it */
        if (queue->relay)
            wire_dismantle(queue);
    }
}

/* ---- The two switches ---------------------------------------------------------------------------
 */

/*
 * Is there a back-end to undo things with? When it is lost in mid-switch, rings stay as they are
 * for its successor.
 */
static bool can_undo(const struct svq_device *device)
{
    return !device->s.over && link_up(device);
}

/* Undo a switch that failed after some rings changed hands. */
static void go_back(struct svq_device *device, bool shadow)
{
    if (!can_undo(device))
        return;
    unwire_all(device);
    if (!can_undo(device))
        return;
    device->s.shadow = shadow;
    if (!shadow_wire_all(device))
        shadow_wake_all(device);
    else if (can_undo(device))
        device->s.over = "back-end refused to go back to the old mode";
}

/* Shadow rings that were halted go on; the others never stopped. */
static void resume_all(struct svq_device *device)
{
    int err = 0;

    if (!can_undo(device))
        return;
    gather(device);
    for_each_queue(device, i, queue)
        if (queue->halted && !err)
            err = wire_resume(queue);
    err = all_told(device, err);
    if (!err)
        err = start_all(device);
    if (!err)
        shadow_wake_all(device);
    else if (can_undo(device))
        device->s.over = "back-end refused to go back to the old mode";
}

int shadow_pause(struct svq_device *device)
{
    int err = halt_all(device);

    if (err && device->s.shadow)
        resume_all(device);
    else if (err)
        go_back(device, false);
    return err;
}

/* The pause. */
static int change_mode(struct svq_device *device, bool shadow)
{
    int err;

    svq_prompt_hurry();
    err = shadow_pause(device);
    if (!err) {
        if (!shadow)
            wire_dismantle_all(device);
        device->s.shadow = shadow;
        err = shadow_wire_all(device);
        if (err)
            go_back(device, !shadow);
        else
            shadow_wake_all(device);
    }
    svq_prompt_relax();
    return err;
}

/* What can be made ready before the rings stop. */
static void prepare_on(struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->wire == WIRE_DIRECT && queue_runs(queue))
            relay_prepare(queue);
    wire_shadow_prepare_all(device);
}

int shadow_renew(struct svq_device *device)
{
    int err = halt_all(device);

    if (!err || (err == -ETIMEDOUT && can_undo(device)))
        err = shadow_wire_all(device);
    if (!err)
        shadow_wake_all(device);
    return err;
}

static void report(struct svq_device *device, int64_t began, const char *reason)
{
    struct svq_event event = {
        .type = SVQ_EVENT_SHADOW_CHANGED,
        .id = device->id,
        .shadow = device->s.shadow,
        .microseconds = (svq_now() - began) / SVQ_USEC,
        .reason = reason,
    };

    device->switches++;
    device->last_switch_shadow = event.shadow;
    device->last_switch_us = event.microseconds;
    svq_info(device->id, "shadow %s in %llu us (%s)", event.shadow ? "on" : "off",
             (unsigned long long)event.microseconds, reason);
    device->context->event(device->context->opaque, &event);
}

int shadow_settle(struct svq_device *device, const char *reason, const char **cause)
{
    bool want = shadow_wanted(device);
    int64_t began = svq_now();
    int err;

    *cause = NULL;
    if (want == device->s.shadow)
        return 0;
    if (want && (*cause = shadow_obstacle(device)))
        return -EOPNOTSUPP;
    /* Without a back-end nothing can be switched: recovery brings the rings into the right mode. */
    if (!link_up(device))
        return 0;
    if (!shadow_device_wired(device)) {
        device->s.shadow = want;
        return 0;
    }
    if (want)
        prepare_on(device);
    err = change_mode(device, want);
    if (err) {
        *cause = CAUSE_FAILED;
        device_error(device, "cannot switch the shadow %s%s", want ? "on" : "off",
                     can_undo(device) ? "; the device goes on as before" : "");
    } else {
        if (want)
            dirty_close_gap(device);
        report(device, began, reason);
    }
    relay_drop_spares(device);
    return err;
}

/* ---- Operators' commands ------------------------------------------------------------------------
 */

int shadow_command(struct svq_device *device, struct command *command, const char **cause)
{
    enum order before = device->s.order;
    int err;

    if (!shadow_device_started(device)) {
        *cause = "Device is not started";
        return -ENOTCONN;
    }
    if (!link_up(device)) {
        *cause = "Back-end is not connected";
        return -ENOTCONN;
    }
    if (command->enable && (*cause = shadow_obstacle(device)))
        return -EOPNOTSUPP;
    if (command->enable && device->policy == SVQ_SHADOW_OFF) {
        *cause = CAUSE_FAILED;
        device_error(device, "not shadowed: its policy is shadow=off");
        return -EPERM;
    }
    if (!command->enable && device->s.bound) {
        *cause = device->why_bound;
        return -EBUSY;
    }
    if (!command->enable && device->s.logging && !device->s.log_backend) {
        *cause = CAUSE_FAILED;
        device_error(device, "the shadow stays on while it writes the front-end's dirty log");
        return -EBUSY;
    }
    device->s.order = command->enable ? ORDER_SHADOW : ORDER_DIRECT;
    err = shadow_settle(device, "command", cause);
    if (err)
        device->s.order = before;
    return err;
}

int shadow_policy_command(struct svq_device *device, struct command *command, const char **cause)
{
    enum svq_shadow_policy before = device->policy;
    const char *why = setup_check_rings(command->policy, device->ring, device->offer);
    int err;

    if (why) {
        *cause = device->s.bound ? device->why_bound : why;
        return -EINVAL;
    }
    device->policy = command->policy;
    device->s.order = ORDER_NONE;
    if (device->s.fd < 0)
        return 0;
    if (command->policy == SVQ_SHADOW_OFF && device->s.logging && !device->s.log_backend) {
        device->policy = before;
        *cause = CAUSE_FAILED;
        device_error(device, "the shadow stays on while it writes the front-end's dirty log");
        return -EBUSY;
    }
    err = shadow_settle(device, "policy", cause);
    if (err)
        device->policy = before;
    return err;
}
