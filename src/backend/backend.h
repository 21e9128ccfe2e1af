/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a device needs of its back-end, whatever kind it is: one table of functions, one file for
 * each kind. Control thread, fiber context.
 *
 * Setters may be queued: 0 only means "on its way". svq_backend_flush() waits until the back-end
 * has done everything queued before and returns the first refusal. A switch queues a whole device's
 * rings and pays for one round trip.
 *
 * Errors: -EREMOTEIO when the back-end refused (it lives on); anything else means that it can no
 * longer be talked to, and the caller closes it.
 */
#ifndef SVQ_BACKEND_BACKEND_H
#define SVQ_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/mem.h>
#include <shadowvq/vhost_user.h>

struct svq_backend;

/* A ring that is to stop, and the answer. */
struct svq_vring_stop {
    unsigned index;
    int call; /* what is completed after the answer is notified there; -1: to nobody */
    bool answered;
    uint32_t base;
};

/*
 * While the back-end is closed every call that would talk to it returns -ENOTCONN, without a word
 * in the log.
 */
struct svq_backend_ops {
    /*
     * One attempt; then features and protocol_features are known. Nobody there: -ECONNREFUSED,
     * -ENOENT or -EAGAIN, also for one that leaves before it has answered; -ETIMEDOUT when it
     * does not answer at all. Closed again after any failure; no log line says that nobody is
     * there.
     */
    int (*open)(struct svq_backend *backend);
    void (*close)(struct svq_backend *backend);
    void (*free)(struct svq_backend *backend);
    /* Readable or hung up between requests means that the back-end is gone. */
    int (*fd)(const struct svq_backend *backend);
    /* While closed: readable when there may be somebody to open(); -1: only time tells. */
    int (*wait_fd)(const struct svq_backend *backend);
    /*
     * Another back-end, closed, at the same address; it shares a socket that listens there, which
     * could not be bound twice. 0 or -ENOMEM.
     */
    int (*another)(struct svq_backend *backend, struct svq_backend **out);

    /*
     * What is queued from now on may wait until push(), flush() or the next answer, to go out
     * together. Fds must stay open until then. push() does not wait for acks.
     */
    void (*gather)(struct svq_backend *backend);
    int (*push)(struct svq_backend *backend);
    int (*flush)(struct svq_backend *backend);

    int (*set_owner)(struct svq_backend *backend);
    int (*reset)(struct svq_backend *backend, uint32_t request);
    int (*set_protocol_features)(struct svq_backend *backend, uint64_t features);
    int (*set_features)(struct svq_backend *backend, uint64_t features);
    int (*get_queue_num)(struct svq_backend *backend, uint64_t *num);
    int (*get_max_mem_slots)(struct svq_backend *backend, uint64_t *slots);

    int (*set_mem_table)(struct svq_backend *backend, const struct svq_region *regions,
                         unsigned count);
    int (*add_region)(struct svq_backend *backend, const struct svq_region *region);
    int (*remove_region)(struct svq_backend *backend, const struct svq_region *region);
    int (*set_log)(struct svq_backend *backend, int fd, uint64_t size, uint64_t offset);
    /* The in-flight region; queued. Only with INFLIGHT_SHMFD acked. */
    int (*set_inflight)(struct svq_backend *backend, int fd, const struct svq_vu_inflight *what);

    int (*set_vring_num)(struct svq_backend *backend, unsigned index, unsigned num);
    int (*set_vring_addr)(struct svq_backend *backend, const struct svq_vu_vring_addr *addr);
    int (*set_vring_base)(struct svq_backend *backend, unsigned index, uint32_t base);
    /*
     * Stops the rings: asks all, then waits for all answers. One may come before its ring has
     * completed everything. After an error those that are answered have stopped all the same;
     * -EREMOTEIO, for something queued before: none was asked.
     */
    int (*get_vring_bases)(struct svq_backend *backend, struct svq_vring_stop *stops,
                           unsigned count);
    /* request: SVQ_VU_SET_VRING_KICK, _CALL or _ERR; fd -1: none. */
    int (*set_vring_fd)(struct svq_backend *backend, uint32_t request, unsigned index, int fd);
    int (*set_vring_enable)(struct svq_backend *backend, unsigned index, bool enable);

    /* Any other request as the front-end sent it; flushes first. Typed requests fill `reply`. */
    int (*forward)(struct svq_backend *backend, const struct svq_vu_message *request,
                   struct svq_vu_message *reply);
};

struct svq_backend {
    const struct svq_backend_ops *ops;
    const char *tag;         /* the device's id, for log lines */
    int64_t message_timeout; /* nanoseconds */
    int64_t drain_timeout;   /* nanoseconds, on top of it for GET_VRING_BASE */

    /* Valid while open. */
    uint64_t features;
    uint64_t protocol_features;
    uint64_t protocol_acked;
};

/* Is that a back-end's address? Return: NULL, or a static text that says what to change. */
const char *svq_backend_check(const char *address);

/* The path of the socket that svqd listens on for this back-end; NULL: it connects. */
const char *svq_backend_listens(const char *address);

/**
 * svq_backend_new() - a back-end at a (checked) address; not connected yet.
 *
 * Return: 0, -ENOMEM, or the error of binding a listening socket.
 */
int svq_backend_new(const char *address, struct svq_backend **out);

/* The same for a vhost-user back-end. @where: the address without its scheme */
int svq_backend_vhost_user_new(const char *where, struct svq_backend **out);

/* One ring's; *base is as it was after an error. */
static inline int svq_backend_get_vring_base(struct svq_backend *backend, unsigned index, int call,
                                             uint32_t *base)
{
    struct svq_vring_stop stop = {.index = index, .call = call};
    int err = backend->ops->get_vring_bases(backend, &stop, 1);

    if (stop.answered)
        *base = stop.base;
    return err;
}

static inline bool svq_backend_has(const struct svq_backend *backend, unsigned protocol_feature)
{
    return backend->protocol_features & SVQ_BIT(protocol_feature);
}

#endif
