/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands of the QMP server, behind the protocol. docs/qmp.md describes them. */
#ifndef SVQ_DAEMON_COMMANDS_H
#define SVQ_DAEMON_COMMANDS_H

#include <jansson.h>

#include "daemon/failure.h"
#include "daemon/registry.h"

/* What commands act on. */
struct svq_command_context {
    struct svq_registry *registry;
    void (*quit)(void *opaque); /* asks svqd to end; returns at once */
    void *opaque;
};

/**
 * svq_command_run() - look a command up, check its arguments, run it. Fiber: some commands wait.
 * @arguments: an object, or NULL for none; stays the caller's
 *
 * Return: the value for "return", a new reference; NULL with the reason in *failure.
 */
json_t *svq_command_run(const struct svq_command_context *context, const char *name,
                        json_t *arguments, struct svq_failure *failure);

/* {"qemu": {"major", "minor", "micro"}, "package"}: query-version, and part of the greeting. */
json_t *svq_command_version(void);

/* What a command expects as arguments. */
enum svq_arg_type { SVQ_ARG_STRING, SVQ_ARG_BOOL, SVQ_ARG_INT, SVQ_ARG_ARRAY };

struct svq_arg {
    const char *name;
    enum svq_arg_type type;
    bool required;
};

/* Check names and types; QEMU's order and words. @args ends with a NULL name. */
int svq_command_check(const struct svq_arg *args, json_t *arguments, struct svq_failure *failure);

#endif
