/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define T_IN     0
#define T_OUT    1
#define T_FLUSH  4
#define T_GET_ID 8

#define S_OK     0
#define S_IOERR  1
#define S_UNSUPP 2

#define ID_SIZE 20

struct header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

/* struct virtio_blk_config as far as we know it. */
struct config {
    uint64_t capacity;
    uint32_t size_max;
    uint32_t seg_max;
    uint8_t geometry[4];
    uint32_t blk_size;
    uint8_t topology[8];
    uint8_t writeback;
    uint8_t unused;
    uint16_t num_queues;
} __attribute__((packed));

/* A place in a list of buffers. */
struct cursor {
    const struct iovec *iov;
    size_t offset; /* in that buffer */
};

/* A file of at least that size; it is not made smaller. Return: its fd or -errno. */
static int open_file(const char *path, uint64_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;
    int ret;

    if (fd < 0)
        return -errno;
    if (!fstat(fd, &st) && ((uint64_t)st.st_size >= bytes || !ftruncate(fd, (off_t)bytes)))
        return fd;
    ret = -errno;
    close(fd);
    return ret;
}

int rd_disk_new(struct rd_disk *disk, const char *file, uint64_t bytes, unsigned queues)
{
    int fd = file ? open_file(file, bytes) : -1;
    int flags = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *data;

    if (file && fd < 0)
        return fd;
    data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (fd >= 0)
        close(fd);
    if (data == MAP_FAILED)
        return -errno;
    *disk = (struct rd_disk){.sectors = bytes / RD_SECTOR, .queues = queues, .data = data};
    return 0;
}

void rd_disk_free(struct rd_disk *disk)
{
    if (disk->data)
        munmap(disk->data, disk->sectors * RD_SECTOR);
    disk->data = NULL;
}

uint64_t rd_disk_features(void)
{
    return SVQ_BIT(RD_BLK_F_SEG_MAX) | SVQ_BIT(RD_BLK_F_BLK_SIZE) | SVQ_BIT(RD_BLK_F_FLUSH) |
           SVQ_BIT(RD_BLK_F_MQ);
}

void rd_disk_config(const struct rd_disk *disk, uint8_t config[RD_CONFIG_SIZE])
{
    const struct config known = {.capacity = disk->sectors,
                                 .seg_max = 126,
                                 .blk_size = RD_SECTOR,
                                 .num_queues = (uint16_t)disk->queues};

    _Static_assert(sizeof(known) <= RD_CONFIG_SIZE, "the configuration space");
    memset(config, 0, RD_CONFIG_SIZE);
    memcpy(config, &known, sizeof(known));
}

static uint64_t total(const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* Copy between memory and the buffers at the cursor, and move it on. They hold enough. */
static void copy(struct cursor *at, void *data, size_t len, bool to_buffers)
{
    uint8_t *pos = data;

    while (len) {
        uint8_t *buffer = (uint8_t *)at->iov->iov_base + at->offset;
        size_t piece = at->iov->iov_len - at->offset;

        if (piece > len)
            piece = len;
        if (to_buffers)
            memcpy(buffer, pos, piece);
        else
            memcpy(pos, buffer, piece);
        pos += piece;
        len -= piece;
        at->offset += piece;
        if (at->offset == at->iov->iov_len) {
            at->iov++;
            at->offset = 0;
        }
    }
}

/* Where a transfer of `bytes` at `sector` goes; NULL when it is not on the disk. */
static uint8_t *sectors_at(const struct rd_disk *disk, uint64_t sector, uint64_t bytes)
{
    if (bytes % RD_SECTOR || sector > disk->sectors || bytes / RD_SECTOR > disk->sectors - sector)
        return NULL;
    return disk->data + sector * RD_SECTOR;
}

/* The status is the last writable byte, wherever the data ended. */
static void set_status(const struct rd_chain *chain, uint8_t status)
{
    const struct iovec *last = &chain->iov[chain->out + chain->in - 1];

    ((uint8_t *)last->iov_base)[last->iov_len - 1] = status;
}

uint32_t rd_disk_serve(struct rd_disk *disk, const struct rd_chain *chain)
{
    struct cursor out = {.iov = chain->iov};
    struct cursor in = {.iov = chain->iov + chain->out};
    uint64_t out_bytes = total(out.iov, chain->out);
    uint64_t in_bytes = total(in.iov, chain->in);
    uint64_t written = 0;
    uint8_t status = S_OK;
    struct header header;
    uint8_t *data;

    /* Without room for a status there is no way to say what is wrong. */
    if (!in_bytes)
        return 0;
    in_bytes--;
    if (out_bytes < sizeof(header)) {
        status = S_IOERR;
        goto done;
    }
    copy(&out, &header, sizeof(header), false);
    out_bytes -= sizeof(header);

    switch (header.type) {
    case T_IN:
        data = sectors_at(disk, header.sector, in_bytes);
        if (data)
            copy(&in, data, in_bytes, true);
        written = data ? in_bytes : 0;
        status = data ? S_OK : S_IOERR;
        break;
    case T_OUT:
        data = sectors_at(disk, header.sector, out_bytes);
        if (data)
            copy(&out, data, out_bytes, false);
        status = data ? S_OK : S_IOERR;
        break;
    case T_FLUSH:
        break;
    case T_GET_ID: {
        char id[ID_SIZE] = "svq-ramdisk";

        written = in_bytes < ID_SIZE ? in_bytes : ID_SIZE;
        copy(&in, id, written, true);
        break;
    }
    default:
        status = S_UNSUPP;
    }

done:
    set_status(chain, status);
    return (uint32_t)(written == in_bytes ? written + 1 : written);
}
