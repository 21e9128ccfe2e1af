/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QMP client that sends any bytes, cut anywhere. The session takes all of them, answers in whole
 * lines, each a JSON object, and never has to give the client up. Devices are dummies: the linker
 * puts the functions below in the place of the device layer's (-Wl,--wrap).
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/qmp_session.h"
#include "fuzz.h"

/* ---- Dummy devices --------------------------------------------------------------------------- */

struct svq_device {
    struct svq_device_config config;
    char *id, *frontend, *backend;
    bool shadow;
};

int __wrap_svq_device_new(const struct svq_device_context *context,
                          const struct svq_device_config *config, struct svq_device **out);
void __wrap_svq_device_delete(struct svq_device *device);
const char *__wrap_svq_device_id(const struct svq_device *device);
int __wrap_svq_device_enable_shadow(struct svq_device *device, bool enable, const char **cause);
int __wrap_svq_device_set_policy(struct svq_device *device, enum svq_shadow_policy policy,
                                 const char **cause);
void __wrap_svq_device_info(const struct svq_device *device, struct svq_device_info *info);
bool __wrap_svq_device_queue_info(const struct svq_device *device, unsigned index,
                                  struct svq_queue_info *info);

int __wrap_svq_device_new(const struct svq_device_context *context,
                          const struct svq_device_config *config, struct svq_device **out)
{
    struct svq_device *device;
    const char *why = NULL;

    (void)context;
    fuzz_check(svq_device_check_config(config, &why) == 0);
    if (strstr(config->frontend, "busy"))
        return -EADDRINUSE;
    device = calloc(1, sizeof(*device));
    device->config = *config;
    device->id = strdup(config->id);
    device->frontend = strdup(config->frontend);
    device->backend = strdup(config->backend);
    *out = device;
    return 0;
}

void __wrap_svq_device_delete(struct svq_device *device)
{
    free(device->id);
    free(device->frontend);
    free(device->backend);
    free(device);
}

const char *__wrap_svq_device_id(const struct svq_device *device)
{
    return device->id;
}

int __wrap_svq_device_enable_shadow(struct svq_device *device, bool enable, const char **cause)
{
    *cause = "Device is not started";
    if (device->config.shadow == SVQ_SHADOW_OFF)
        return -ENOTCONN;
    device->shadow = enable;
    return 0;
}

int __wrap_svq_device_set_policy(struct svq_device *device, enum svq_shadow_policy policy,
                                 const char **cause)
{
    (void)cause;
    device->config.shadow = policy;
    return 0;
}

void __wrap_svq_device_info(const struct svq_device *device, struct svq_device_info *info)
{
    const struct svq_device_config *config = &device->config;

    memset(info, 0, sizeof(*info));
    info->id = device->id;
    info->frontend = device->frontend;
    info->backend = device->backend;
    info->mode = device->shadow ? SVQ_MODE_SHADOW : SVQ_MODE_PASS_THROUGH;
    info->shadow = config->shadow;
    info->dirty_log = config->dirty_log;
    info->ring = config->ring;
    info->offer = config->offer;
    info->bound = config->offer ? "the guest uses ring features that the back-end lacks" : NULL;
    info->features_backend = info->features_offered = info->features_acked = UINT64_MAX;
    info->features_masked = info->features_served = UINT64_MAX;
    info->protocol_backend = info->protocol_offered = info->protocol_acked = UINT64_MAX;
    info->switches = device->shadow;
    info->last_error = device->id;
    info->queues = 3;
}

bool __wrap_svq_device_queue_info(const struct svq_device *device, unsigned index,
                                  struct svq_queue_info *info)
{
    memset(info, 0, sizeof(*info));
    info->index = index;
    info->shadow = device->shadow;
    info->guest.format = info->backend.format = SVQ_RING_PACKED;
    info->guest.features = info->backend.features = UINT64_MAX;
    info->guest.has_index = index == 0;
    info->chains = UINT64_MAX;
    info->error = index == 2 ? device->id : NULL;
    return index != 1;
}

/* ---- The session ----------------------------------------------------------------------------- */

static void ignore(void *opaque)
{
    (void)opaque;
}

static void take_output(struct svq_qmp_session *session)
{
    size_t length = 0, at = 0;
    const char *output = svq_qmp_session_output(session, &length);

    fuzz_check(length <= SVQ_QMP_OUTPUT_LIMIT);
    while (at < length) {
        const char *end = memchr(output + at, '\n', length - at);
        json_t *line;

        fuzz_check(end != NULL);
        line = json_loadb(output + at, (size_t)(end - output) - at, 0, NULL);
        fuzz_check(json_is_object(line));
        json_decref(line);
        at = (size_t)(end - output) + 1;
    }
    svq_qmp_session_sent(session, length);
}

static void feed(struct svq_qmp_session *session, const char *bytes, size_t length)
{
    bool stuck = false;

    while (length) {
        size_t taken = svq_qmp_session_feed(session, bytes, length);

        /* The byte that ends a text may be the next one's: not taken yet, but then at once. */
        fuzz_check(taken <= length && !(stuck && !taken));
        stuck = !taken;
        fuzz_check(!svq_qmp_session_failed(session));
        take_output(session);
        bytes += taken;
        length -= taken;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
    static const struct svq_device_context no_devices;
    struct svq_command_context context = {.registry = svq_registry_new(&no_devices),
                                          .quit = ignore};
    struct svq_qmp_session *session = svq_qmp_session_new(&context);
    size_t piece = 1 + size % 97;

    fuzz_check(context.registry && session);
    take_output(session);
    if (size % 5)
        feed(session, hello, strlen(hello));
    for (size_t at = 0; at < size; at += piece)
        feed(session, (const char *)data + at, size - at < piece ? size - at : piece);
    svq_qmp_session_free(session);
    svq_registry_delete_all(context.registry);
    svq_registry_free(context.registry);
    return 0;
}

/* ---- Seeds ----------------------------------------------------------------------------------- */

#define ADD(more)                                                                              \
    "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"frontend\":\"/x\",\"backend\":" \
    "\"vhost-user:/y\"" more "}}"

size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    static const char *const seeds[] = {
        "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}",
        "{\"execute\":\"query-version\",\"id\":{\"a\":[1,2.5,null,true]}}",
        "{\"execute\":\"query-commands\"}{\"execute\":\"query-devices\"}\n",
        ADD("") "{\"execute\":\"query-devices\"}",
        ADD(",\"offer\":[\"packed\",\"event_idx\"],\"ring\":\"split\"") "{\"execute\":\"query-"
                                                                        "queues\"}",
        ADD(",\"offer\":\"packed+in_order\",\"shadow\":\"on\",\"message-timeout\":1.5"),
        ADD(",\"dirty-log\":\"off\"") "{\"execute\":\"device-del\",\"arguments\":{\"id\":\"a\"}}",
        ADD("") "{\"execute\":\"x-vhost-enable-shadow-vq\",\"arguments\":{\"name\":\"a\","
                "\"enable\":true}}{\"execute\":\"query-devices\"}",
        ADD("") "{\"execute\":\"device-set-shadow\",\"arguments\":{\"id\":\"a\",\"shadow\":\"off\"}"
                "}{\"execute\":\"query-queues\",\"arguments\":{\"id\":\"a\"}}",
        "{\"execute\":\"quit\"}{\"exec\":1}{\"execute\":7}[1]{\"execute\":\"\\u00e9\\ud83d\"}",
        "{\"a\":\"\\\"}{\\\\\"} x } ] {\"execute\" : \"query-version\" , \"id\" : \"\\u0000\"}",
    };
    size_t size;

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return 0;
    size = strlen(seeds[i]);
    memcpy(data, seeds[i], size);
    return size;
}
