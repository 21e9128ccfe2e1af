/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk in RAM, or in a file that is used like RAM, that answers virtio-blk requests (virtio 1.3
 * section 5.2.6).
 */
#ifndef RAMDISK_DISK_H
#define RAMDISK_DISK_H

#include <stdint.h>

#include "queue.h"

#define RD_SECTOR      512u
#define RD_CONFIG_SIZE 60u

/* Feature bits of the device type (virtio 1.3 section 5.2.3). */
#define RD_BLK_F_SEG_MAX  2
#define RD_BLK_F_BLK_SIZE 6
#define RD_BLK_F_FLUSH    9
#define RD_BLK_F_MQ       12

struct rd_disk {
    uint64_t sectors;
    unsigned queues;
    uint8_t *data;
};

/*
 * @file: where its content is kept, so that another process can go on with it; made if need be.
 *        NULL: it goes with us
 *
 * Return: 0 or -errno.
 */
int rd_disk_new(struct rd_disk *disk, const char *file, uint64_t bytes, unsigned queues);
void rd_disk_free(struct rd_disk *disk);

/* The feature bits that this device type has. */
uint64_t rd_disk_features(void);

/* The device's configuration space. */
void rd_disk_config(const struct rd_disk *disk, uint8_t config[RD_CONFIG_SIZE]);

/* Carry a request out. Return: bytes written to its buffers. */
uint32_t rd_disk_serve(struct rd_disk *disk, const struct rd_chain *chain);

#endif
