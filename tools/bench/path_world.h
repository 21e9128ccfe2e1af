/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest, a device, and svqd between them or not: what rotation turns. One guest's memory, one
 * device and one svqd stay the same through all modes, so that nothing else differs.
 */
#ifndef SVQ_BENCH_PATH_WORLD_H
#define SVQ_BENCH_PATH_WORLD_H

#include "device_end.h"
#include "guest_end.h"
#include "hop.h"
#include "path.h"
#include "proxy.h"
#include "spinner.h"

struct path_world {
    struct bench_loop *loop;        /* takes the guest's turns */
    struct bench_loop *device_loop; /* and the device's; may be the same */
    struct device_host *host;
    struct device_end *device;
    struct guest_end guest;
    struct proxy proxy;
    struct spinner spinner;
    struct hop hop; /* from the guest's processor to svqd's worker's */
    int worker_cpu;
    char frontend[96];
    char backend[96];
    bool sleeps;
    bool connected;
    enum path_mode mode;
    char error[640];
};

#define PATH_DEVICE "bench" /* its id */

/* All calls: false: world->error says what went wrong. */

/*
 * @sleeps: nobody polls, neither the ends, which then have a thread each, nor svqd.
 * The world is to be closed whatever this returns.
 */
bool path_world_open(struct path_world *world, const struct path_options *options,
                     const struct guest_end_config *config, bool sleeps);
void path_world_close(struct path_world *world);

/* From now on in this mode, and with buffers in flight. */
bool path_world_enter(struct path_world *world, enum path_mode mode);

/* What a slot found. */
struct path_slot {
    double seconds;
    uint64_t buffers; /* that came back to the guest */
    uint64_t svqd_ns; /* CPU time of svqd, */
    uint64_t ends_ns; /* and of the guest's loop */
    /* Ends or svqd's worker had to wait for their processor. Never when they sleep: who wakes up
     * always waits for a moment. */
    bool disturbed;
};

/*
 * Let it run for drop_ms, then for slot_ms and count. Both ends' counts must agree: what the device
 * has done is what came back to the guest, but for buffers in flight.
 */
bool path_world_slot(struct path_world *world, unsigned drop_ms, unsigned slot_ms,
                     struct path_slot *slot);

#endif
