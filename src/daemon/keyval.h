/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * KEY=VALUE,KEY=VALUE lists in the style of QEMU's options: a comma in a value is written twice.
 */
#ifndef SVQ_DAEMON_KEYVAL_H
#define SVQ_DAEMON_KEYVAL_H

#include <jansson.h>

#include "daemon/failure.h"

/**
 * svq_keyval_parse() - a list as a JSON object whose values are all strings.
 *
 * Return: 0 and a new reference in *out, or -errno with the reason in *failure.
 */
int svq_keyval_parse(const char *text, json_t **out, struct svq_failure *failure);

#endif
