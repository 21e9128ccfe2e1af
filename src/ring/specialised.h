/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVQ_RING_SPECIALISED_H
#define SVQ_RING_SPECIALISED_H

/*
 * Inlined whatever the optimiser thinks, so that constant arguments select code, and so that a
 * batch's copies of rings and tables stay in registers: one call that gets the address of a copy
 * makes all of it memory.
 */
#define SPECIALISED static inline __attribute__((always_inline))

#endif
