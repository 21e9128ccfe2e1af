/* SPDX-License-Identifier: BSD-3-Clause */
/* What a standstill looks like. Threads may still sleep on what is read here; nobody writes. */
#include "combo.h"
#include "world.h"

#include "kit/packed.h"
#include "kit/split.h"

static void dump_split(const struct kit_ring *ring, FILE *out)
{
    unsigned mask = ring->num - 1;
    uint16_t avail = kit_get16(&ring->split.avail->idx), used = kit_get16(&ring->split.used->idx);

    fprintf(out, "    avail: flags %u, idx %u, used_event %u\n",
            kit_get16(&ring->split.avail->flags), avail, kit_get16(kit_used_event(ring)));
    fprintf(out, "    used: flags %u, idx %u, avail_event %u\n",
            kit_get16(&ring->split.used->flags), used, kit_get16(kit_avail_event(ring)));
    for (unsigned i = ring->num < 4 ? ring->num : 4; i > 0; i--) {
        const struct kit_used_elem *elem = &ring->split.used->ring[(used - i) & mask];

        fprintf(out, "    avail[idx - %u] = %u, used[idx - %u] = %u, len %u\n", i,
                ring->split.avail->ring[(avail - i) & mask], i, elem->id, elem->len);
    }
}

static void dump_packed(const struct kit_ring *ring, FILE *out)
{
    fprintf(out, "    driver event: desc 0x%04x, flags %u\n", ring->packed.driver->desc,
            ring->packed.driver->flags);
    fprintf(out, "    device event: desc 0x%04x, flags %u\n", ring->packed.device->desc,
            ring->packed.device->flags);
    for (unsigned i = 0; i < ring->num && i < 32; i++) {
        const struct kit_pdesc *d = &ring->packed.desc[i];
        unsigned flags = kit_get16(&d->flags);

        fprintf(out, "    [%2u] id %5u, len %5u, avail %u, used %u, other flags 0x%x\n", i, d->id,
                d->len, !!(flags & KIT_P_AVAIL), !!(flags & KIT_P_USED), flags & 7);
    }
}

static void dump_ring(const char *name, const struct kit_ring *ring, FILE *out)
{
    fprintf(out, "  %s ring: %s, %u entries\n", name,
            ring->format == SVQ_RING_PACKED ? "packed" : "split", ring->num);
    if (ring->format == SVQ_RING_PACKED)
        dump_packed(ring, out);
    else
        dump_split(ring, out);
}

void world_dump(struct world *w, FILE *out)
{
    const char *trouble = w->trouble, *reason = NULL;
    struct svq_relay_state state;
    struct svq_relay_stats stats;
    char name[COMBO_NAME];

    combo_name(w->config.combo, name);
    svq_relay_state(w->relay, &state);
    svq_relay_stats(w->relay, &stats);
    fprintf(out, "  %s, %s: %s\n", name, w->config.burst ? "bursts" : "ping-pong",
            trouble ? trouble : "stalled: a notification was lost");
    fprintf(out, "  guest: %llu offered, %llu done, %u out of at most %u; next index 0x%04x\n",
            (unsigned long long)w->offered, (unsigned long long)w->done, w->out, w->depth,
            w->driver->ops->next(w->driver));
    fprintf(out, "  back-end: %llu served, %u taken and not completed\n",
            (unsigned long long)w->served, w->taken_count);
    fprintf(
        out, "  relay: guest avail %u%s, used %u%s; back-end avail %u%s, used %u%s; %u in flight\n",
        state.guest.avail, state.guest.avail_wrap ? "'" : "", state.guest.used,
        state.guest.used_wrap ? "'" : "", state.backend.avail, state.backend.avail_wrap ? "'" : "",
        state.backend.used, state.backend.used_wrap ? "'" : "", state.in_flight);
    fprintf(out, "  relay: %llu chains, %llu kicks and %llu calls sent, %llu and %llu received\n",
            (unsigned long long)stats.chains, (unsigned long long)stats.backend_kicks,
            (unsigned long long)stats.guest_calls, (unsigned long long)stats.guest_kicks,
            (unsigned long long)stats.backend_calls);
    if (svq_relay_fault(w->relay, &reason) != SVQ_SIDE_NONE)
        fprintf(out, "  relay: fault: %s\n", reason);
    dump_ring("guest", &w->guest, out);
    dump_ring("shadow", &w->shadow, out);
}
