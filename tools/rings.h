/* SPDX-License-Identifier: BSD-3-Clause */
/* A queue's two rings in one line. */
#ifndef SVQCTL_RINGS_H
#define SVQCTL_RINGS_H

#include <jansson.h>

#include "table.h"

/*
 * Cells about the guest's ring and, where svqd has put another one behind it, the back-end's:
 * "packed 256 event_idx indirect -> split 256"; only the formats: "packed -> split".
 */
void svq_show_rings(struct svq_table *table, const json_t *queue);
void svq_show_formats(struct svq_table *table, const json_t *queue);

/* How far a ring has come, available/used; a packed one's offsets with their wrap counters. */
void svq_show_index(struct svq_table *table, const json_t *ring);

/* Names of ring features as the key offer= takes them, each but the first behind `between`. */
void svq_print_ring_features(const json_t *names, const char *between, FILE *out);

#endif
