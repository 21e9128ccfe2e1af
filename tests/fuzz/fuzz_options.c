/* SPDX-License-Identifier: BSD-3-Clause */
/* --device's KEY=VALUE,... from any bytes: a description that holds together, or a clear reason. */
#include <stdlib.h>

#include <shadowvq/relay.h>

#include "daemon/device_desc.h"
#include "fuzz.h"

static void check_good(const struct svq_device_config *config)
{
    const char *why = NULL;

    fuzz_check(svq_device_check_config(config, &why) == 0);
    fuzz_check(config->id && config->id[0]);
    fuzz_check(config->frontend && config->frontend[0]);
    fuzz_check(config->backend && !strncmp(config->backend, "vhost-user:", 11));
    fuzz_check(!(config->offer & ~SVQ_RELAY_FEATURES));
    fuzz_check(config->message_timeout > 0 && config->drain_timeout > 0);
}

/* Whatever was typed, its failure can be printed and sent: that is what json_string() checks. */
static void check_failure(const struct svq_failure *failure)
{
    json_t *text = json_string(failure->text), *hint = json_string(failure->hint);

    fuzz_check(text && hint && failure->text[0]);
    json_decref(text);
    json_decref(hint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct svq_failure failure;
    struct svq_device_desc desc;
    char *text = malloc(size + 1);

    fuzz_check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    memset(&failure, 0, sizeof(failure));
    if (svq_device_desc_from_text(text, &desc, &failure) == 0) {
        check_good(&desc.config);
        svq_device_desc_release(&desc);
    } else {
        check_failure(&failure);
    }
    free(text);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    static const char *const seeds[] = {
        "id=a,frontend=/x,backend=vhost-user:/y",
        "id=net0,frontend=connect:/x,backend=vhost-user:/y,shadow=auto,dirty-log=on",
        "id=a,frontend=/x,backend=vhost-user:/y,shadow=off,message-timeout=1.5,drain-timeout=10",
        "id=a,frontend=/x,backend=vhost-user:/y,ring=packed,offer=packed+event_idx+indirect",
        "id=a,frontend=/x,backend=vhost-user:/y,ring=split,shadow=off,offer=in_order",
        "backend=vhost-user:,,,id=a=b,frontend=",
        "id=a,id=b,front=/x,offer=+,message-timeout=-1",
    };
    size_t size;

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return 0;
    size = strlen(seeds[i]);
    memcpy(data, seeds[i], size);
    return size;
}
