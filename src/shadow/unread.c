/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/unread.h"

#include "shadow/gather.h"

static const char *gather_again(struct svq_relay *relay, uint16_t head, struct draft *draft)
{
    static const struct gather_plan refuse = {.mirrored = true, .tables = TABLES_REFUSE};
    static const struct gather_plan keep = {.mirrored = true, .tables = TABLES_KEEP};

    const char *fault;

    if (relay->table_plan == TABLES_KEEP)
        fault = gather_split_from(relay, keep, draft, head);
    else
        fault = gather_split_from(relay, refuse, draft, head);
    return fault ? fault : gather_check_sum(draft);
}

bool unread_look(struct svq_relay *relay, uint16_t head)
{
    static const struct gather_plan mirrored = {.mirrored = true};
    struct inflight *t = &relay->inflight;
    struct inflight_chain *chain = &t->chains[head];
    struct draft draft = gather_begin(t);
    const char *fault;

    chain->busy = false; /* as if it were taken only now */
    fault = gather_again(relay, head, &draft);
    if (fault) {
        gather_drop(t, mirrored, &draft);
        chain->busy = true;
        chain->done = true; /* nobody may have it done again */
        relay_fault(relay, SVQ_SIDE_GUEST, fault);
        return false;
    }
    chain->unread = false;
    chain->plain = draft.slots == 1 && !draft.table;
    if (!chain->plain)
        gather_rest(t, &draft, TABLES_NONE);
    chain->slots = draft.slots;
    chain->guest_slots = draft.guest_slots;
    return true;
}
