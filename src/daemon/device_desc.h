/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The description of a device as people write it: --device, the configuration file and QMP's
 * device-add all end here. One table says which keys there are and what they may hold.
 */
#ifndef SVQ_DAEMON_DEVICE_DESC_H
#define SVQ_DAEMON_DEVICE_DESC_H

#include <jansson.h>

#include "daemon/failure.h"
#include "device/device.h"

/* A checked description; the strings in `config` belong to `source`. */
struct svq_device_desc {
    struct svq_device_config config;
    json_t *source;
};

/* Where the values come from: on a command line every value is text. */
enum svq_desc_source { SVQ_DESC_TEXT, SVQ_DESC_JSON };

/**
 * svq_device_desc_from_json() - read and check a description.
 * @object: stays the caller's; the description holds a reference
 *
 * Return: 0, or -EINVAL with the reason in *failure.
 */
int svq_device_desc_from_json(json_t *object, enum svq_desc_source source,
                              struct svq_device_desc *desc, struct svq_failure *failure);

/* The same from a command line's KEY=VALUE,... list. */
int svq_device_desc_from_text(const char *text, struct svq_device_desc *desc,
                              struct svq_failure *failure);

void svq_device_desc_release(struct svq_device_desc *desc);

#endif
