/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest with one vhost-user device, and the VMM around it: the front-end's side of the protocol
 * in the order in which QEMU speaks it.
 *
 *      sim_guest_new()  memory given, rings laid out in it
 *      connect -> start -> [log_start -> harvest ... -> log_stop] -> stop -> disconnect
 *      reconnect -> start: the device was killed; its in-flight region tells the next one
 *      sim_guest_move() to a copy of the memory, and from connect on again: a live migration
 *
 * Control calls come from one thread. Queues may be in use by their own threads during log_start,
 * harvest and log_stop, but a VMM stops its CPUs before sim_guest_stop().
 */
#ifndef SIM_GUEST_H
#define SIM_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "bitmap.h"
#include "memory.h"
#include "session.h"
#include "vring_driver.h"

#define SIM_GUEST_MAX_QUEUES 64

struct sim_guest_config {
    unsigned queues;
    unsigned queue_size;
    uint64_t features; /* what the driver acks if it is offered; VERSION_1 is always wanted.
                          EVENT_IDX and RING_PACKED must be */
    bool mem_slots;    /* ADD_MEM_REG instead of SET_MEM_TABLE, if the back-end has it */
    bool ack_all;      /* ask for an ack of every message, as Cloud Hypervisor does */
    bool no_inflight;  /* know nothing of in-flight regions, as front-ends of network devices */
    bool polls;        /* no call and no error eventfds: nobody would look at them */
    int timeout_ms;    /* for an answer; 0: 20 seconds */
    int settle_ms;     /* what a queue's last completions may take after its stop; see below */
};

/*
 * A back-end completes what it has taken and then answers GET_VRING_BASE. Those built on QEMU's
 * libvhost-user answer first, complete later, and panic when they then have no call eventfd, which
 * that message took from them: the requests are lost. With settle_ms they get another eventfd in
 * the same breath, and that much time; without, such a stop fails.
 */

/* A queue and the eventfds around it. */
struct sim_guest_queue {
    struct sim_vring *ring;
    int kick;      /* guest to device */
    int call;      /* device to guest; -1: there is none, see `polls` */
    int err;       /* device to VMM; likewise */
    uint32_t base; /* where the device goes on */
};

/* The in-flight region: the device's notes, which outlive it. */
struct sim_guest_inflight {
    int fd; /* -1: there is none */
    struct svq_vu_inflight what;
};

struct sim_guest {
    struct sim_guest_config config;
    struct sim_memory *mem; /* not owned */
    struct sim_guest_queue *queues;

    /* The connection, from sim_guest_connect() on. */
    struct sim_session session;
    bool regions_added;
    uint64_t offered;       /* the device's features */
    uint64_t features;      /* acked */
    unsigned device_queues; /* how many the device has */
    struct sim_bitmap *log; /* the dirty log, while it is on */

    struct sim_guest_inflight inflight; /* from one connection to the next */
};

/* Lays the rings out in mem. Return: 0 or -errno. */
int sim_guest_new(const struct sim_guest_config *config, struct sim_memory *mem,
                  struct sim_guest **out);
void sim_guest_free(struct sim_guest *guest);

/* All below: 0, or -errno with guest->session.error saying what went wrong. */

/* Connect (trying for so long) and negotiate features. */
int sim_guest_connect(struct sim_guest *guest, const char *path, int wait_ms);
void sim_guest_disconnect(struct sim_guest *guest);

/*
 * The device was killed while the guest's queues went on: connect to its successor, hand it the
 * in-flight region, start. Whoever plays the guest's CPUs need not know of it. A dirty log goes on.
 */
int sim_guest_reconnect(struct sim_guest *guest, const char *path, int wait_ms);

/* Requests in flight by the region, as it stands. Return: -1 when there is none. */
int sim_guest_in_flight(const struct sim_guest *guest);

/* The device's configuration space. */
int sim_guest_read_config(struct sim_guest *guest, uint32_t offset, void *data, uint32_t len);

/* Hand memory and rings to the device; rings go on where they were stopped. */
int sim_guest_start(struct sim_guest *guest);
/* Take the rings back. Requests that the device had taken are completed then. */
int sim_guest_stop(struct sim_guest *guest);

/* May this device be migrated? Otherwise QEMU refuses; the error says why. */
int sim_guest_can_log(struct sim_guest *guest);
int sim_guest_log_start(struct sim_guest *guest);
int sim_guest_log_stop(struct sim_guest *guest);
/* A device that starts while the log is on. Part of start. */
int sim_guest_tell_log(struct sim_guest *guest);
/* SET_VRING_ADDR, with or without the used ring's place in the log. */
int sim_guest_set_addresses(struct sim_guest *guest, unsigned index, bool log);
/* A new, empty log in the place of the current one, which is fetched a last time into `last`. */
int sim_guest_log_replace(struct sim_guest *guest, uint64_t *last, size_t words);

/* While disconnected: go on in a copy of the memory. */
int sim_guest_move(struct sim_guest *guest, struct sim_memory *mem);

/* SET_INFLIGHT_FD, of a region that the device makes when there is none. Part of start. */
int sim_guest_hand_inflight(struct sim_guest *guest);
/* The next start is one without a past. */
void sim_guest_forget_inflight(struct sim_guest *guest);

/* Has the device reported an error on this queue (its err eventfd)? */
bool sim_guest_queue_error(const struct sim_guest *guest, unsigned index);

#endif
