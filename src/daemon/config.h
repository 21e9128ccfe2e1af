/* SPDX-License-Identifier: BSD-3-Clause */
/* The configuration file: a JSON object with the names of the long options as its members. */
#ifndef SVQ_DAEMON_CONFIG_H
#define SVQ_DAEMON_CONFIG_H

#include <jansson.h>

#include "daemon/options.h"

/**
 * svq_config_load() - take from a file what the command line has not set; its devices are added.
 *
 * Return: 0, or -EINVAL with the file, the place and the reason in *failure.
 */
int svq_config_load(const char *path, struct svq_options *options, struct svq_failure *failure);

/* The same from the parsed file. */
int svq_config_apply(json_t *root, struct svq_options *options, struct svq_failure *failure);

#endif
