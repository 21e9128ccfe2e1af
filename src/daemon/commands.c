/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/commands.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include <shadowvq/version.h>

#include "backend/backend.h"
#include "daemon/device_desc.h"
#include "daemon/names.h"
#include "daemon/status.h"

/* Arguments have passed the check against the command's table when it runs. */
typedef json_t *command_fn(const struct svq_command_context *context, json_t *arguments,
                           struct svq_failure *failure);

struct command {
    const char *name;
    command_fn *run;
    const struct svq_arg *args; /* NULL: the command checks by itself */
};

static const char *string_arg(json_t *arguments, const char *name)
{
    return json_string_value(json_object_get(arguments, name));
}

static json_t *not_found(const char *id, struct svq_failure *failure)
{
    svq_fail_class(failure, SVQ_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    return NULL;
}

/* ---- Questions ----------------------------------------------------------------------------- */

json_t *svq_command_version(void)
{
    return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", SVQ_VERSION_MAJOR, "minor",
                     SVQ_VERSION_MINOR, "micro", SVQ_VERSION_MICRO, "package",
                     "shadowvq " SVQ_VERSION);
}

static json_t *query_version(const struct svq_command_context *context, json_t *arguments,
                             struct svq_failure *failure)
{
    (void)context;
    (void)arguments;
    (void)failure;
    return svq_command_version();
}

static json_t *query_devices(const struct svq_command_context *context, json_t *arguments,
                             struct svq_failure *failure)
{
    (void)arguments;
    (void)failure;
    return svq_status_devices(context->registry);
}

static json_t *query_queues(const struct svq_command_context *context, json_t *arguments,
                            struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");
    const struct svq_device *device = NULL;

    if (id) {
        device = svq_registry_find(context->registry, id);
        if (!device)
            return not_found(id, failure);
    }
    return svq_status_queues(context->registry, device);
}

/* ---- Devices ------------------------------------------------------------------------------- */

static json_t *device_add(const struct svq_command_context *context, json_t *arguments,
                          struct svq_failure *failure)
{
    json_t *object = arguments ? json_incref(arguments) : json_object();
    struct svq_device_desc desc;
    int ret;

    ret = svq_device_desc_from_json(object, SVQ_DESC_JSON, &desc, failure);
    json_decref(object);
    if (ret < 0)
        return NULL;
    ret = svq_registry_add(context->registry, &desc.config, failure);
    svq_device_desc_release(&desc);
    return ret < 0 ? NULL : json_object();
}

static json_t *device_del(const struct svq_command_context *context, json_t *arguments,
                          struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");

    if (svq_registry_delete(context->registry, id) < 0)
        return not_found(id, failure);
    return json_object();
}

static json_t *device_set_shadow(const struct svq_command_context *context, json_t *arguments,
                                 struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");
    const char *word = string_arg(arguments, "shadow");
    const char *cause = "Error enabling (see monitor)";
    int policy = svq_word_find(svq_shadow_policy_words, word);
    struct svq_device *device;
    int ret;

    if (policy < 0) {
        svq_fail(failure, "Parameter 'shadow' does not accept value '%s'", word);
        return NULL;
    }
    device = svq_registry_hold(context->registry, id);
    if (!device)
        return not_found(id, failure);
    ret = svq_device_set_policy(device, (enum svq_shadow_policy)policy, &cause);
    svq_registry_release(context->registry, device);
    if (ret < 0) {
        svq_fail(failure, "Can't set shadow=%s on %s: %s", word, id, cause);
        return NULL;
    }
    return json_object();
}

/* The name, arguments and messages that QEMU's shadow virtqueue series gave this command. */
static json_t *enable_shadow_vq(const struct svq_command_context *context, json_t *arguments,
                                struct svq_failure *failure)
{
    const char *name = string_arg(arguments, "name");
    bool enable = json_is_true(json_object_get(arguments, "enable"));
    const char *cause = "Error enabling (see monitor)";
    struct svq_device *device;
    int ret;

    device = svq_registry_hold(context->registry, name);
    if (!device) {
        svq_fail_class(failure, SVQ_DEVICE_NOT_FOUND,
                       "Can't enable shadow vq on %s: Device not found", name);
        return NULL;
    }
    ret = svq_device_enable_shadow(device, enable, &cause);
    svq_registry_release(context->registry, device);
    if (ret < 0) {
        svq_fail(failure, "Can't enable shadow vq on %s: %s", name, cause);
        return NULL;
    }
    return json_object();
}

/* What is wrong with the address is found before anybody is asked to leave. */
static int change_backend(const struct svq_command_context *context, struct svq_device *device,
                          const char *address, uint64_t *microseconds, struct svq_failure *failure)
{
    const char *cause = svq_backend_check(address);
    int ret;

    if (cause)
        return svq_fail(failure, "%s", cause);
    ret = svq_registry_check_backend(context->registry, device, address, failure);
    if (ret < 0)
        return ret;
    cause = "Out of memory";
    ret = svq_device_set_backend(device, address, microseconds, &cause);
    return ret < 0 ? svq_fail(failure, "%s", cause) : 0;
}

static json_t *device_set_backend(const struct svq_command_context *context, json_t *arguments,
                                  struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");
    struct svq_device *device = svq_registry_hold(context->registry, id);
    uint64_t microseconds = 0;
    int ret;

    if (!device)
        return not_found(id, failure);
    ret = change_backend(context, device, string_arg(arguments, "backend"), &microseconds, failure);
    svq_registry_release(context->registry, device);
    if (ret < 0) {
        svq_fail_where(failure, "Can't change the back-end of %s", id);
        return NULL;
    }
    return json_pack("{s:I}", "pause-microseconds", (json_int_t)microseconds);
}

/* Without a worker: any, as it is from the start. */
static json_t *queue_set_worker(const struct svq_command_context *context, json_t *arguments,
                                struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");
    const json_t *worker = json_object_get(arguments, "worker");
    json_int_t queue = json_integer_value(json_object_get(arguments, "queue"));
    json_int_t number = worker ? json_integer_value(worker) : -1;
    struct svq_device *device = svq_registry_hold(context->registry, id);
    int ret = 0;

    if (!device)
        return not_found(id, failure);
    if (queue < 0 || queue > INT_MAX)
        ret = -ENOENT;
    else if ((worker && number < 0) || number > INT_MAX)
        ret = -EINVAL;
    else
        ret = svq_device_set_worker(device, (unsigned)queue, (int)number);
    svq_registry_release(context->registry, device);
    if (ret == 0)
        return json_object();
    svq_fail(failure, "Can't move queue %lld of %s: %s", (long long)queue, id,
             ret == -ENOENT   ? "there is no such queue now"
             : ret == -EINVAL ? "there is no such worker; svqd starts as many as --workers says"
                              : strerror(-ret));
    return NULL;
}

static json_t *device_log(const struct svq_command_context *context, json_t *arguments,
                          struct svq_failure *failure)
{
    const char *id = string_arg(arguments, "id");
    bool enable = json_is_true(json_object_get(arguments, "enable"));
    struct svq_device *device = svq_registry_hold(context->registry, id);
    int ret;

    if (!device)
        return not_found(id, failure);
    ret = svq_device_log(device, enable);
    svq_registry_release(context->registry, device);
    if (ret == 0)
        return json_object();
    svq_fail(failure, "Can't log %s: %s", id,
             ret == -EAGAIN ? "Device is not started" : strerror(-ret));
    return NULL;
}

static json_t *quit(const struct svq_command_context *context, json_t *arguments,
                    struct svq_failure *failure)
{
    (void)arguments;
    (void)failure;
    context->quit(context->opaque);
    return json_object();
}

/* ---- The table ----------------------------------------------------------------------------- */

static const struct svq_arg no_args[] = {{NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg id_args[] = {{"id", SVQ_ARG_STRING, true},
                                         {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg any_id_args[] = {{"id", SVQ_ARG_STRING, false},
                                             {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg set_shadow_args[] = {
    {"id", SVQ_ARG_STRING, true}, {"shadow", SVQ_ARG_STRING, true}, {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg set_backend_args[] = {
    {"id", SVQ_ARG_STRING, true}, {"backend", SVQ_ARG_STRING, true}, {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg set_worker_args[] = {{"id", SVQ_ARG_STRING, true},
                                                 {"queue", SVQ_ARG_INT, true},
                                                 {"worker", SVQ_ARG_INT, false},
                                                 {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg log_args[] = {
    {"id", SVQ_ARG_STRING, true}, {"enable", SVQ_ARG_BOOL, true}, {NULL, SVQ_ARG_STRING, false}};
static const struct svq_arg enable_args[] = {
    {"name", SVQ_ARG_STRING, true}, {"enable", SVQ_ARG_BOOL, true}, {NULL, SVQ_ARG_STRING, false}};

static command_fn query_commands;

static const struct command commands[] = {
    {"query-version", query_version, no_args},
    {"query-commands", query_commands, no_args},
    {"query-devices", query_devices, no_args},
    {"query-queues", query_queues, any_id_args},
    {"device-add", device_add, NULL},
    {"device-del", device_del, id_args},
    {"device-set-shadow", device_set_shadow, set_shadow_args},
    {"device-set-backend", device_set_backend, set_backend_args},
    {"queue-set-worker", queue_set_worker, set_worker_args},
    {"x-vhost-enable-shadow-vq", enable_shadow_vq, enable_args},
    {"x-device-log", device_log, log_args},
    {"quit", quit, no_args},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static json_t *query_commands(const struct svq_command_context *context, json_t *arguments,
                              struct svq_failure *failure)
{
    json_t *list = json_pack("[{s:s}]", "name", "qmp_capabilities");
    size_t i;

    (void)context;
    (void)arguments;
    (void)failure;
    for (i = 0; list && i < COMMAND_COUNT; i++) {
        if (json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static int check_type(const struct svq_arg *arg, const json_t *value, struct svq_failure *failure)
{
    const char *expected = NULL;

    switch (arg->type) {
    case SVQ_ARG_STRING:
        expected = json_is_string(value) ? NULL : "string";
        break;
    case SVQ_ARG_BOOL:
        expected = json_is_boolean(value) ? NULL : "boolean";
        break;
    case SVQ_ARG_INT:
        expected = json_is_integer(value) ? NULL : "integer";
        break;
    case SVQ_ARG_ARRAY:
        expected = json_is_array(value) ? NULL : "array";
        break;
    }
    if (expected)
        return svq_fail(failure, "Invalid parameter type for '%s', expected: %s", arg->name,
                        expected);
    return 0;
}

static bool is_known(const struct svq_arg *args, const char *name)
{
    for (; args->name; args++) {
        if (strcmp(args->name, name) == 0)
            return true;
    }
    return false;
}

int svq_command_check(const struct svq_arg *args, json_t *arguments, struct svq_failure *failure)
{
    const struct svq_arg *arg;
    const char *name;
    json_t *value;
    int ret;

    for (arg = args; arg->name; arg++) {
        value = json_object_get(arguments, arg->name);
        if (!value && arg->required)
            return svq_fail(failure, "Parameter '%s' is missing", arg->name);
        ret = value ? check_type(arg, value, failure) : 0;
        if (ret < 0)
            return ret;
    }
    json_object_foreach(arguments, name, value) {
        if (!is_known(args, name))
            return svq_fail(failure, "Parameter '%s' is unexpected", name);
    }
    return 0;
}

static const struct command *find_command(const char *name)
{
    size_t i;

    for (i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

json_t *svq_command_run(const struct svq_command_context *context, const char *name,
                        json_t *arguments, struct svq_failure *failure)
{
    const struct command *command = find_command(name);

    if (!command) {
        svq_fail_class(failure, SVQ_COMMAND_NOT_FOUND, "The command %s has not been found", name);
        return NULL;
    }
    if (command->args && svq_command_check(command->args, arguments, failure) < 0)
        return NULL;
    /* What a command returns NULL for without a word is a lack of memory. */
    svq_fail(failure, "Out of memory");
    return command->run(context, arguments, failure);
}
