/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One front-end and what it has told us: features, memory, queues.
 */
#ifndef RAMDISK_SESSION_H
#define RAMDISK_SESSION_H

#include "disk.h"
#include "guest_memory.h"
#include "queue.h"
#include "work.h"

#define RD_MAX_QUEUES 64

/* What the front-end may have of us. */
struct rd_offer {
    bool packed;
    bool inflight;
};

struct rd_session {
    struct rd_disk *disk;
    struct rd_offer offer;
    struct rd_pace *pace;
    int sock;
    int epoll; /* where kick eventfds are waited for; their data is RD_KICK + index */
    uint64_t features;
    uint64_t protocol;
    struct rd_memory memory;
    struct rd_region region;
    struct rd_queue queues[RD_MAX_QUEUES]; /* disk->queues of them */
    struct rd_work work[RD_MAX_QUEUES];    /* theirs */
};

#define RD_KICK 16

/* A new front-end on this socket, which becomes the session's. */
void rd_session_open(struct rd_session *session, struct rd_disk *disk, struct rd_offer offer,
                     struct rd_pace *pace, int sock, int epoll);
/*
 * Forget the front-end, and all that came with it. Requests under way are not completed: nobody
 * would read the answer, or whoever does knows of them by the in-flight region.
 */
void rd_session_close(struct rd_session *session);

/*
 * Receive one message and act on it. Return: 0; -ENOTCONN when the front-end has left; another
 * -errno when it broke the protocol: close the session.
 */
int rd_session_receive(struct rd_session *session);

/* A queue was kicked: the first kick starts it. */
void rd_session_kicked(struct rd_session *session, unsigned index);

/* Serve what the queues hold. Return: whether there was anything. */
bool rd_session_serve(struct rd_session *session);

/* Are requests under way? */
bool rd_session_works(const struct rd_session *session);

/* Ask all queues for kicks. Return: true when there is something to serve after all. */
bool rd_session_arm(struct rd_session *session);

#endif
