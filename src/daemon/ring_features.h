/* SPDX-License-Identifier: BSD-3-Clause */
/* The ring features that a relay can have (SVQ_RELAY_FEATURES), as people name them. */
#ifndef SVQ_DAEMON_RING_FEATURES_H
#define SVQ_DAEMON_RING_FEATURES_H

#include <jansson.h>
#include <stdint.h>

#include "daemon/failure.h"

/**
 * svq_ring_features_parse() - names joined by '+': packed, event_idx, indirect (or indirect_desc),
 * in_order; each once, in any order, at least one.
 * @key: the parameter's name, for messages
 *
 * Return: 0, or -EINVAL with the reason in *failure.
 */
int svq_ring_features_parse(const char *key, const char *text, uint64_t *features,
                            struct svq_failure *failure);

/* The same from a JSON array of names, which may be empty, or from a string as above. */
int svq_ring_features_from_json(const char *key, const json_t *value, uint64_t *features,
                                struct svq_failure *failure);

/* An array of names; a new reference, or NULL without memory. */
json_t *svq_ring_features_json(uint64_t features);

#endif
