/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside of queue.c: what the two kinds of rings have in common, and where they differ.
 */
#ifndef RAMDISK_RING_H
#define RAMDISK_RING_H

#include "queue.h"

#define DESC_F_NEXT     1u
#define DESC_F_WRITE    2u
#define DESC_F_INDIRECT 4u

/* The queue is broken, for this reason. Return: false. */
bool rd_queue_fault(struct rd_queue *queue, const char *why);

/* Add a buffer to a chain, wherever it lies. Return: false: now the queue is broken. */
bool rd_chain_add(struct rd_queue *queue, struct rd_chain *chain, uint64_t addr, uint32_t len,
                  bool writable);

/* An indirect table of *count descriptors of 16 bytes; NULL: now the queue is broken. */
const void *rd_chain_table(struct rd_queue *queue, uint64_t addr, uint32_t len, unsigned *count);

int rd_split_attach(struct rd_queue *queue, const struct rd_memory *mem);
int rd_split_start(struct rd_queue *queue);
bool rd_split_pop(struct rd_queue *queue, struct rd_chain *chain);
void rd_split_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len);
bool rd_split_publish(struct rd_queue *queue); /* Return: is the guest to be called? */
bool rd_split_arm(struct rd_queue *queue);
void rd_split_disarm(struct rd_queue *queue);

int rd_packed_attach(struct rd_queue *queue, const struct rd_memory *mem);
int rd_packed_start(struct rd_queue *queue);
bool rd_packed_pop(struct rd_queue *queue, struct rd_chain *chain);
void rd_packed_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len);
bool rd_packed_publish(struct rd_queue *queue);
bool rd_packed_arm(struct rd_queue *queue);
void rd_packed_disarm(struct rd_queue *queue);

#endif
