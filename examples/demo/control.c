/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo.h"

#include <stdio.h>
#include <string.h>

static void copy_string(char *to, size_t size, const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    snprintf(to, size, "%s", value ? value : "");
}

int demo_query(struct demo *demo, struct demo_device *device)
{
    json_t *devices, *entry, *last, *safe, *found = NULL;
    size_t i;

    memset(device, 0, sizeof(*device));
    if (sim_qmp_execute(&demo->qmp, "query-devices", NULL, &devices))
        return demo_fail(demo, "%s", demo->qmp.error);
    json_array_foreach(devices, i, entry) {
        const char *id = json_string_value(json_object_get(entry, "id"));

        if (id && !strcmp(id, DEMO_DEVICE))
            found = entry;
    }
    if (!found) {
        json_decref(devices);
        return demo_fail(demo, "query-devices does not show " DEMO_DEVICE);
    }
    copy_string(device->mode, sizeof(device->mode), found, "mode");
    copy_string(device->logging, sizeof(device->logging), found, "logging");
    copy_string(device->last_error, sizeof(device->last_error), found, "last-error");
    device->switches = (uint64_t)json_integer_value(json_object_get(found, "switches"));
    last = json_object_get(found, "last-switch");
    device->last_shadow = json_is_true(json_object_get(last, "shadow"));
    device->last_us = (uint64_t)json_integer_value(json_object_get(last, "microseconds"));
    safe = json_object_get(found, "crash-safe");
    device->safe = json_is_true(json_object_get(safe, "safe"));
    copy_string(device->unsafe, sizeof(device->unsafe), safe, "reason");
    json_decref(devices);
    return 0;
}

int demo_set_shadow(struct demo *demo, bool enable)
{
    json_t *args = json_pack("{s:s, s:b}", "name", DEMO_DEVICE, "enable", enable);

    if (sim_qmp_execute(&demo->qmp, "x-vhost-enable-shadow-vq", args, NULL))
        return demo_fail(demo, "%s", demo->qmp.error);
    return 0;
}

int demo_set_backend(struct demo *demo, const char *path, uint64_t *us)
{
    char address[128];
    json_t *result;

    snprintf(address, sizeof(address), "vhost-user:%s", path);
    if (sim_qmp_execute(&demo->qmp, "device-set-backend",
                        json_pack("{s:s, s:s}", "id", DEMO_DEVICE, "backend", address), &result))
        return demo_fail(demo, "%s", demo->qmp.error);
    *us = (uint64_t)json_integer_value(json_object_get(result, "pause-microseconds"));
    json_decref(result);
    return *us ? 0 : demo_fail(demo, "svqd says that it changed the back-end in no time");
}

int demo_expect_mode(struct demo *demo, const char *mode, const char *when)
{
    struct demo_device device;

    if (demo_query(demo, &device))
        return -1;
    if (strcmp(device.mode, mode))
        return demo_fail(demo, "%s the device is in mode \"%s\", not \"%s\"%s%s", when, device.mode,
                         mode, device.last_error[0] ? ": " : "", device.last_error);
    return 0;
}
