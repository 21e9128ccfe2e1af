/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/number.h"

static int bad_type(const char *name, const char *expected, struct svq_failure *failure)
{
    return svq_fail(failure, "'%s' must be %s", name, expected);
}

static int apply_device(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    struct svq_device_desc desc;
    int ret;

    ret = svq_device_desc_from_json(value, SVQ_DESC_JSON, &desc, failure);
    if (ret < 0)
        return ret;
    ret = svq_options_add_device(options, &desc, failure);
    if (ret < 0)
        svq_device_desc_release(&desc);
    return ret;
}

static int apply_devices(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    json_t *device;
    size_t i;
    int ret;

    if (!json_is_array(value))
        return bad_type("devices", "an array of objects", failure);
    json_array_foreach(value, i, device) {
        ret = apply_device(device, options, failure);
        if (ret < 0) {
            svq_fail_where(failure, "devices[%zu]", i);
            return ret;
        }
    }
    return 0;
}

static int apply_qmp(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    const char *path = json_string_value(value);

    if (!path || path[0] == '\0')
        return bad_type("qmp", "the path of a socket, as a string", failure);
    if (options->set & SVQ_SET_QMP)
        return 0;
    free(options->qmp);
    options->qmp = strdup(path);
    return options->qmp ? 0 : svq_fail(failure, "Out of memory");
}

static int get_number(const char *name, const json_t *value, unsigned min, unsigned max,
                      unsigned *out, struct svq_failure *failure)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < min || number > max)
        return svq_fail(failure, "'%s' must be a whole number between %u and %u", name, min, max);
    *out = (unsigned)number;
    return 0;
}

static int apply_workers(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    unsigned workers = 0;
    int ret = get_number("workers", value, 1, SVQ_MAX_WORKERS, &workers, failure);

    if (ret == 0 && !(options->set & SVQ_SET_WORKERS))
        options->workers = workers;
    return ret;
}

static int apply_poll_us(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    int poll_us;

    if (!svq_poll_us_convert(value, &poll_us))
        return bad_type("poll-us", SVQ_POLL_US_RANGE, failure);
    if (!(options->set & SVQ_SET_POLL_US))
        options->poll_us = poll_us;
    return 0;
}

static int apply_worker_cpus(json_t *value, struct svq_options *options,
                             struct svq_failure *failure)
{
    struct svq_cpu_list list;

    if (!json_is_string(value) || !svq_cpu_list_parse(json_string_value(value), &list))
        return bad_type("worker-cpus", "processors as a string, like \"1,4-7\"", failure);
    if (!(options->set & SVQ_SET_CPUS))
        options->worker_cpus = list;
    return 0;
}

static int apply_huge_pages(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    enum svq_huge_pages pages;

    if (!json_is_string(value) || !svq_huge_pages_parse(json_string_value(value), &pages))
        return bad_type("huge-pages", "\"auto\", \"reserved\" or \"off\"", failure);
    if (!(options->set & SVQ_SET_PAGES))
        options->huge_pages = pages;
    return 0;
}

static int apply_log_level(json_t *value, struct svq_options *options, struct svq_failure *failure)
{
    enum svq_log_level level;

    if (!json_is_string(value) || !svq_log_level_parse(json_string_value(value), &level))
        return bad_type("log-level", "\"error\", \"warning\", \"info\" or \"debug\"", failure);
    if (!(options->set & SVQ_SET_LOG_LEVEL))
        options->log_level = level;
    return 0;
}

static const struct member {
    const char *name;
    int (*apply)(json_t *value, struct svq_options *options, struct svq_failure *failure);
} members[] = {
    {"devices", apply_devices},       {"qmp", apply_qmp},
    {"workers", apply_workers},       {"poll-us", apply_poll_us},
    {"log-level", apply_log_level},   {"worker-cpus", apply_worker_cpus},
    {"huge-pages", apply_huge_pages},
};

static const struct member *find_member(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        if (strcmp(members[i].name, name) == 0)
            return &members[i];
    }
    return NULL;
}

int svq_config_apply(json_t *root, struct svq_options *options, struct svq_failure *failure)
{
    const char *name;
    json_t *value;
    int ret;

    if (!json_is_object(root))
        return svq_fail(failure, "The file must hold one JSON object");
    json_object_foreach(root, name, value) {
        const struct member *member = find_member(name);

        if (!member) {
            svq_fail(failure, "'%s' is unexpected", name);
            svq_fail_hint(
                failure,
                "Known are devices, qmp, workers, worker-cpus, poll-us, huge-pages and log-level");
            return -EINVAL;
        }
        ret = member->apply(value, options, failure);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int svq_config_load(const char *path, struct svq_options *options, struct svq_failure *failure)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    int ret;

    if (!root) {
        if (json_error_code(&error) == json_error_cannot_open_file)
            return svq_fail(failure, "Can't read configuration file '%s': %s", path,
                            strerror(errno));
        return svq_fail(failure, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    }
    ret = svq_config_apply(root, options, failure);
    json_decref(root);
    if (ret < 0)
        svq_fail_where(failure, "%s", path);
    return ret;
}
