/* SPDX-License-Identifier: BSD-3-Clause */
/* Which ways to use a relay there are. */
#include "relay.h"

#include <shadowvq/vhost_user.h>

#define EVENT_IDX SVQ_BIT(SVQ_F_EVENT_IDX)
#define INDIRECT  SVQ_BIT(SVQ_F_INDIRECT_DESC)
#define IN_ORDER  SVQ_BIT(SVQ_F_IN_ORDER)

const char *const relay_pair_names[RELAY_PAIRS] = {"split>split", "split>packed", "packed>split",
                                                   "packed>packed"};

const struct relay_setup relay_setups[RELAY_SETUPS] = {
    {"plain", "one descriptor per buffer, no ring features"},
    {"shared",
     "the same; where both rings are split the back-end reads the guest's own\n"
     "             descriptors, as it does with svqd by default",
     .share = true},
    {"event_idx", "EVENT_IDX on both sides", EVENT_IDX, EVENT_IDX},
    {"in_order", "IN_ORDER on both sides", IN_ORDER, IN_ORDER},
    {"both", "EVENT_IDX and IN_ORDER on both sides", EVENT_IDX | IN_ORDER, EVENT_IDX | IN_ORDER},
    {"reordered", "IN_ORDER at the guest only; the back-end completes each batch in reverse",
     IN_ORDER, .reverse = true},
    {"chained", "several descriptors per buffer", .chained = true},
    {"indirect",
     "the same in an indirect table, which the back-end takes: forwarded where both\n"
     "             formats are the same, else converted",
     INDIRECT, INDIRECT, .chained = true, .indirect = true},
    {"flattened", "the same in an indirect table, which the back-end does not take", INDIRECT,
     .chained = true, .indirect = true},
};

struct bench_world_config relay_world_config(const struct relay_setup *setup, enum relay_pair pair)
{
    const uint64_t packed = SVQ_BIT(SVQ_F_RING_PACKED);
    bool guest = pair == PAIR_PACKED_SPLIT || pair == PAIR_PACKED_PACKED;
    bool backend = pair == PAIR_SPLIT_PACKED || pair == PAIR_PACKED_PACKED;

    return (struct bench_world_config){
        .guest_features = setup->guest_features | (guest ? packed : 0),
        .backend_features = setup->backend_features | (backend ? packed : 0),
        .shape = {1, setup->indirect},
        .reverse = setup->reverse,
        .share = setup->share,
    };
}
