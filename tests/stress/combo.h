/* SPDX-License-Identifier: BSD-3-Clause */
/* What either side may have negotiated: 256 combinations, numbered. */
#ifndef SVQ_STRESS_COMBO_H
#define SVQ_STRESS_COMBO_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Bits of a number, low to high: packed, event_idx, in_order, indirect of the guest; then the same
 * of the back-end.
 */
#define COMBOS 256u

/* Longest name and its end. */
#define COMBO_NAME 96

/* Features of SVQ_RELAY_FEATURES. */
uint64_t combo_guest(unsigned combo);
uint64_t combo_backend(unsigned combo);

/* "split+event_idx>packed+in_order+indirect" */
void combo_name(unsigned combo, char name[COMBO_NAME]);

/* Return: false when there is none of that name. */
bool combo_parse(const char *name, unsigned *combo);

/* One of the 16 that differ in format and EVENT_IDX, which is what notifications depend on. */
bool combo_basic(unsigned combo);

#endif
