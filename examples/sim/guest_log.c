/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty logging: the log first, then the feature bit, then the rings' own flags; the order in which
 * QEMU's vhost_dev_set_log() does it.
 */
#include "guest.h"

#include <errno.h>
#include <string.h>

int sim_guest_can_log(struct sim_guest *guest)
{
    if (!(guest->offered & SVQ_BIT(SVQ_F_LOG_ALL)))
        return sim_session_fail(&guest->session, -ENOTSUP, "vhost lacks VHOST_F_LOG_ALL feature");
    if (!sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_LOG_SHMFD))
        return sim_session_fail(&guest->session, -ENOTSUP,
                                "vhost-user backend lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD feature");
    return 0;
}

/* SET_LOG_BASE with this log. Sizes of the answer differ between back-ends; QEMU takes any. */
static int set_log(struct sim_guest *guest, const struct sim_bitmap *log)
{
    struct svq_vu_message msg = SIM_REQUEST(SET_LOG_BASE);
    int ret;

    msg.header.size = sizeof(msg.payload.log);
    msg.payload.log = (struct svq_vu_log){.size = sim_bitmap_size(log), .offset = 0};
    msg.fds[0] = log->fd;
    msg.fd_count = 1;
    ret = sim_session_send(&guest->session, &msg);
    return ret ? ret : sim_session_receive(&guest->session, &msg);
}

static int set_logging(struct sim_guest *guest, bool on)
{
    uint64_t features = guest->features | (on ? SVQ_BIT(SVQ_F_LOG_ALL) : 0);
    int ret = sim_session_tell_u64(&guest->session, SVQ_VU_SET_FEATURES, features, on);

    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        ret = sim_guest_set_addresses(guest, i, on);
    return ret;
}

int sim_guest_log_start(struct sim_guest *guest)
{
    int ret = sim_guest_can_log(guest);

    if (ret)
        return ret;
    ret = sim_bitmap_new(sim_memory_end(guest->mem), &guest->log);
    if (ret)
        return sim_session_fail(&guest->session, ret, "making a dirty log: %s", strerror(-ret));
    ret = set_log(guest, guest->log);
    return ret ? ret : set_logging(guest, true);
}

int sim_guest_tell_log(struct sim_guest *guest)
{
    return guest->log ? set_log(guest, guest->log) : 0;
}

int sim_guest_log_stop(struct sim_guest *guest)
{
    int ret = set_logging(guest, false);

    sim_bitmap_free(guest->log);
    guest->log = NULL;
    return ret;
}

int sim_guest_log_replace(struct sim_guest *guest, uint64_t *last, size_t words)
{
    struct sim_bitmap *fresh;
    int ret = sim_bitmap_new(sim_memory_end(guest->mem), &fresh);

    if (ret)
        return sim_session_fail(&guest->session, ret, "making a dirty log: %s", strerror(-ret));
    ret = set_log(guest, fresh);
    if (ret) {
        sim_bitmap_free(fresh);
        return ret;
    }
    sim_bitmap_harvest(guest->log, last, words);
    sim_bitmap_free(guest->log);
    guest->log = fresh;
    return 0;
}
