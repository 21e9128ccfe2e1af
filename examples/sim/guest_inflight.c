/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region, as a VMM has it: asked for once, kept, and handed to every device that
 * serves this guest. What is in it is the device's business; only sim_guest_in_flight() looks.
 */
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/wire.h"

#define PART_ALIGN 64u

/* GET_INFLIGHT_FD, whose answer brings a fd. */
static int get_region(struct sim_guest *guest)
{
    struct svq_vu_message msg = SIM_REQUEST(GET_INFLIGHT_FD);
    struct svq_vu_inflight *what = &msg.payload.inflight;
    int ret;

    msg.header.size = sizeof(*what);
    what->num_queues = (uint16_t)guest->config.queues;
    what->queue_size = (uint16_t)guest->config.queue_size;
    ret = sim_session_ask_fd(&guest->session, &msg, sizeof(*what), &guest->inflight.fd);
    if (ret)
        return ret;
    if (what->num_queues != guest->config.queues || what->queue_size != guest->config.queue_size ||
        !what->mmap_size)
        ret = sim_session_fail(
            &guest->session, -EPROTO, "answer to GET_INFLIGHT_FD: %u queues of %u, %llu bytes",
            what->num_queues, what->queue_size, (unsigned long long)what->mmap_size);
    guest->inflight.what = *what;
    if (ret)
        sim_guest_forget_inflight(guest);
    return ret;
}

int sim_guest_hand_inflight(struct sim_guest *guest)
{
    struct svq_vu_message msg = SIM_REQUEST(SET_INFLIGHT_FD);
    int ret = 0;

    if (!sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD)) {
        sim_guest_forget_inflight(guest);
        return 0;
    }
    if (guest->inflight.fd < 0)
        ret = get_region(guest);
    if (ret)
        return ret;
    msg.header.size = sizeof(msg.payload.inflight);
    msg.payload.inflight = guest->inflight.what;
    msg.fds[0] = guest->inflight.fd;
    msg.fd_count = 1;
    return sim_session_tell(&guest->session, &msg, true);
}

void sim_guest_forget_inflight(struct sim_guest *guest)
{
    if (guest->inflight.fd >= 0)
        close(guest->inflight.fd);
    guest->inflight.fd = -1;
}

/* Of both formats each entry begins with the mark; heads alone carry it. */
static unsigned marks(const uint8_t *entries, unsigned count, unsigned size)
{
    unsigned set = 0;

    for (unsigned i = 0; i < count; i++)
        set += entries[(size_t)i * size] != 0;
    return set;
}

int sim_guest_in_flight(const struct sim_guest *guest)
{
    const struct svq_vu_inflight *what = &guest->inflight.what;
    bool packed = guest->config.features & SVQ_BIT(SVQ_F_RING_PACKED);
    unsigned head = packed ? 32 : 16;
    unsigned entry = packed ? 32 : 16;
    size_t part = (head + (size_t)entry * what->queue_size + PART_ALIGN - 1) & ~(PART_ALIGN - 1ul);
    size_t size = what->mmap_offset + what->mmap_size;
    unsigned set = 0;
    void *map;

    if (guest->inflight.fd < 0 || part * what->num_queues > what->mmap_size)
        return -1;
    map = mmap(NULL, size, PROT_READ, MAP_SHARED, guest->inflight.fd, 0);
    if (map == MAP_FAILED)
        return -1;
    for (unsigned i = 0; i < what->num_queues; i++)
        set += marks((uint8_t *)map + what->mmap_offset + i * part + head, what->queue_size, entry);
    munmap(map, size);
    return (int)set;
}
