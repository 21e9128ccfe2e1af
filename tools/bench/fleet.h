/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Many devices behind one svqd, each with a guest and a back-end of its own, all shadowed. A loop
 * takes the turns of the first ones, which can be busy. All others are connected and started, and
 * nothing moves.
 */
#ifndef SVQ_BENCH_FLEET_H
#define SVQ_BENCH_FLEET_H

#include "device_end.h"
#include "guest_end.h"
#include "path.h"
#include "proxy.h"

struct fleet_member {
    struct guest_end guest;
    struct device_end *device;
    char id[16];
    char frontend[96];
    char backend[96];
    bool made;
    bool connected;
};

struct fleet {
    struct guest_end_config config; /* of each */
    struct bench_loop *loop;        /* the caller's */
    struct device_host *host;
    struct proxy proxy;
    unsigned room;
    unsigned busy;  /* so many of the first ones can be */
    unsigned count; /* that are connected now */
    struct fleet_member *members;
    char error[640];
};

/* All calls: false: fleet->error says what went wrong. */

/*
 * An svqd without devices. To be closed whatever this returns.
 * @loop: must outlive the fleet; may have parties of others
 */
bool fleet_open(struct fleet *fleet, const struct path_options *options,
                const struct guest_end_config *config, struct bench_loop *loop, unsigned room,
                unsigned busy, unsigned workers);
void fleet_close(struct fleet *fleet);

/* Add or remove devices, the last ones first. */
bool fleet_resize(struct fleet *fleet, unsigned count);
/* A device that can be busy leaves and comes back with a guest elsewhere in memory. */
bool fleet_renew(struct fleet *fleet, unsigned index);

/* Let all that can be busy be so, or no more. */
void fleet_offer(struct fleet *fleet, bool offer);

/* Buffers that came back to each busy guest so far, and when that was. */
bool fleet_counts(struct fleet *fleet, uint64_t *counts, uint64_t *ns);

#endif
