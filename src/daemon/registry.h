/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The devices of this svqd, by id.
 *
 * Commands on a device wait for it, and meanwhile another client may want the same device, or want
 * it gone. So whoever works on a device holds it; others queue up, and deleting it is one such
 * holder, after which those in the queue find no device any more.
 *
 * Control thread. Calls marked "fiber" may wait.
 */
#ifndef SVQ_DAEMON_REGISTRY_H
#define SVQ_DAEMON_REGISTRY_H

#include "daemon/device_desc.h"
#include "daemon/failure.h"
#include "device/device.h"

struct svq_registry;

/* @context: copied. Return: NULL without memory. */
struct svq_registry *svq_registry_new(const struct svq_device_context *context);
/* Every device must have been deleted. */
void svq_registry_free(struct svq_registry *registry);

/* Make a device and start it. Return: 0, or -errno with the reason in *failure. */
int svq_registry_add(struct svq_registry *registry, const struct svq_device_config *config,
                     struct svq_failure *failure);

/*
 * Could this device have its back-end there, as far as the sockets of other devices go?
 * Return: 0, or -errno with the reason in *failure.
 */
int svq_registry_check_backend(const struct svq_registry *registry, const struct svq_device *device,
                               const char *address, struct svq_failure *failure);

/* Fiber: hold a device, alone. NULL: there is none of that id. */
struct svq_device *svq_registry_hold(struct svq_registry *registry, const char *id);
void svq_registry_release(struct svq_registry *registry, struct svq_device *device);

/* Fiber: disconnect a device and free it. Return: 0 or -ENODEV. */
int svq_registry_delete(struct svq_registry *registry, const char *id);
/* Fiber: the same with all; from then on svq_registry_add() refuses. */
void svq_registry_delete_all(struct svq_registry *registry);

/*
 * To look at a device without waiting; valid until the caller waits. The first one for NULL, else
 * the one behind `device`, NULL at the end.
 */
const struct svq_device *svq_registry_next(const struct svq_registry *registry,
                                           const struct svq_device *device);
const struct svq_device *svq_registry_find(const struct svq_registry *registry, const char *id);

#endif
