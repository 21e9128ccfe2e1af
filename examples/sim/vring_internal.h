/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside of vring_driver.c: what differs between a split ring and a packed one.
 */
#ifndef SIM_VRING_INTERNAL_H
#define SIM_VRING_INTERNAL_H

#include "vring_driver.h"

#define DESC_F_NEXT     1u
#define DESC_F_WRITE    2u
#define DESC_F_INDIRECT 4u
#define DESC_BYTES      16u

struct sim_vring_sizes {
    uint64_t desc;
    uint64_t avail; /* packed: the driver's event structure */
    uint64_t used;  /* packed: the device's */
};

/* The chain of this id is complete. Return: its token; NULL: an error. */
void *sim_vring_complete(struct sim_vring *ring, uint32_t id, uint32_t len);

struct sim_vring_sizes sim_split_sizes(unsigned num);
void sim_split_attach(struct sim_vring *ring);
void sim_split_add(struct sim_vring *ring, struct sim_chain *chain,
                   const struct sim_segment *segments, unsigned out, unsigned count,
                   uint64_t table);
bool sim_split_publish(struct sim_vring *ring);
void *sim_split_pop(struct sim_vring *ring, uint32_t *len);
bool sim_split_want_calls(struct sim_vring *ring, unsigned after);
void sim_split_refuse_calls(struct sim_vring *ring);
bool sim_split_call_due(const struct sim_vring *ring);
uint16_t sim_split_device_idx(const struct sim_vring *ring);
const char *sim_split_check_base(const struct sim_vring *ring, uint32_t base);

struct sim_vring_sizes sim_packed_sizes(unsigned num);
void sim_packed_attach(struct sim_vring *ring);
void sim_packed_add(struct sim_vring *ring, struct sim_chain *chain,
                    const struct sim_segment *segments, unsigned out, unsigned count,
                    uint64_t table);
bool sim_packed_publish(struct sim_vring *ring);
void *sim_packed_pop(struct sim_vring *ring, uint32_t *len);
bool sim_packed_want_calls(struct sim_vring *ring, unsigned after);
void sim_packed_refuse_calls(struct sim_vring *ring);
bool sim_packed_call_due(const struct sim_vring *ring);
uint16_t sim_packed_device_idx(const struct sim_vring *ring);
const char *sim_packed_check_base(const struct sim_vring *ring, uint32_t base);

#endif
