/* SPDX-License-Identifier: BSD-3-Clause */
/* New chains: from the guest's ring to the back-end's. */
#include "shadow/emit.h"
#include "shadow/gather.h"
#include "shadow/tracker.h"

struct forward_plan {
    bool guest_packed;
    bool backend_packed;
    bool mirrored;
    enum table_plan tables;
};

/* How many chains wait at least; more than the ring's size when the guest lies. */
SPECIALISED unsigned waiting_chains(const struct svq_relay *relay, const bool packed)
{
    if (packed)
        return packed_device_waiting(&relay->guest.packed);
    return split_device_waiting(&relay->guest.split);
}

SPECIALISED unsigned publish(struct svq_relay *relay, const bool packed)
{
    int kick;

    if (packed) {
        packed_driver_publish(&relay->backend.packed);
        kick = packed_driver_must_kick(&relay->backend.packed);
    } else {
        split_driver_publish(&relay->backend.split);
        kick = split_driver_must_kick(&relay->backend.split);
    }
    if (kick < 0) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "event suppression makes no sense");
        return SVQ_RELAY_BUSY;
    }
    relay->stats.backend_kicks += kick;
    return kick ? SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND : SVQ_RELAY_BUSY;
}

SPECIALISED unsigned forward(struct svq_relay *relay, const struct forward_plan plan)
{
    const struct gather_plan from = {plan.guest_packed, plan.mirrored, plan.tables};
    unsigned waiting = waiting_chains(relay, plan.guest_packed), taken = 0;
    uint16_t head;

    if (!waiting)
        return 0;
    if (!plan.guest_packed && waiting + relay->inflight.count > relay->guest.split.num) {
        relay_fault(relay, SVQ_SIDE_GUEST, "more chains available than the ring can hold");
        return 0;
    }
    while (waiting && inflight_has_room(&relay->inflight) && gather(relay, from, &head)) {
        if (relay->tracker)
            tracker_take(relay, head);
        emit(relay, plan.backend_packed, plan.tables, head);
        taken++;
        /* A packed ring tells of one chain at a time; how many it holds bounds the turn. */
        waiting = plan.guest_packed ? waiting_chains(relay, true) : waiting - 1;
    }
    return taken ? publish(relay, plan.backend_packed) : 0;
}

/* ---- One function for each combination ------------------------------------------------------ */

#define FORWARD(name, guest, backend, mirror, table_plan)                      \
    static unsigned name(struct svq_relay *relay)                              \
    {                                                                          \
        return forward(relay, (struct forward_plan){.guest_packed = guest,     \
                                                    .backend_packed = backend, \
                                                    .mirrored = mirror,        \
                                                    .tables = table_plan});    \
    }

/* Tables of one format stay what they are; between the formats they are converted. */
#define FORWARD_PAIR(name, guest, backend, same_or_convert)        \
    FORWARD(name##_refuse, guest, backend, false, TABLES_REFUSE)   \
    FORWARD(name##_tables, guest, backend, false, same_or_convert) \
    FORWARD(name##_flatten, guest, backend, false, TABLES_FLATTEN)

FORWARD(mirror_refuse, false, false, true, TABLES_REFUSE)
FORWARD(mirror_tables, false, false, true, TABLES_KEEP)
FORWARD_PAIR(split_split, false, false, TABLES_KEEP)
FORWARD_PAIR(split_packed, false, true, TABLES_CONVERT)
FORWARD_PAIR(packed_split, true, false, TABLES_CONVERT)
FORWARD_PAIR(packed_packed, true, true, TABLES_KEEP)

struct forward_set {
    relay_step_fn *refuse, *tables, *flatten;
};

#define SET(name)                                    \
    {                                                \
        name##_refuse, name##_tables, name##_flatten \
    }

relay_step_fn *relay_forward_fn(const struct svq_relay_config *config)
{
    static const struct forward_set sets[2][2] = {{SET(split_split), SET(split_packed)},
                                                  {SET(packed_split), SET(packed_packed)}};
    const struct forward_set *set =
        &sets[svq_ring_format(config->guest.features)][svq_ring_format(config->backend.features)];
    enum table_plan tables = relay_table_plan(config);

    if (relay_mirrors(config))
        return tables == TABLES_REFUSE ? mirror_refuse : mirror_tables;
    if (tables == TABLES_REFUSE)
        return set->refuse;
    return tables == TABLES_FLATTEN ? set->flatten : set->tables;
}
