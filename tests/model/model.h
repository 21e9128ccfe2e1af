/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model test: a random guest, a random back-end and a random operator around the relay, checked
 * against a plain queue. One thread; what runs next is drawn by lot, so a seed repeats everything.
 *
 *   guest.c    offers chains, sleeps until called, checks what comes back
 *   backend.c  takes and completes chains on whichever ring it has, sleeps until kicked
 *   host.c     what svqd does: turns of the relay, switches, dirty logs
 *   rings.c    the only file that knows a ring format
 *
 * The plain queue: chains are taken in the order in which they were offered (queue.chains by
 * number), each is completed once, with the length that the back-end gave.
 */
#ifndef SVQ_TESTS_MODEL_H
#define SVQ_TESTS_MODEL_H

#include <shadowvq/relay.h>

#include "kit/memory.h"
#include "kit/ring.h"
#include "kit/rng.h"

#define MODEL_PAGE       UINT64_C(4096)
#define MODEL_GPA        UINT64_C(0x100000)
#define MODEL_CELLS      (MODEL_GPA + 0x200000)
#define MODEL_CELL       256u
#define MODEL_CELL_COUNT 65536u
#define MODEL_BIGS       (MODEL_CELLS + (uint64_t)MODEL_CELL * MODEL_CELL_COUNT)
#define MODEL_BIG        16384u
#define MODEL_BIG_COUNT  64u
#define MODEL_END        (MODEL_BIGS + (uint64_t)MODEL_BIG * MODEL_BIG_COUNT)
#define MODEL_PAGES      (MODEL_END / MODEL_PAGE)
#define MODEL_MAX_BUFS   1024u

enum chain_state { CHAIN_OFFERED, CHAIN_TAKEN, CHAIN_COMPLETED };

struct chain {
    uint64_t number;
    enum chain_state state;
    unsigned count;
    uint64_t table; /* gpa of its indirect table; 0: none */
    uint64_t bytes;
    uint64_t writable;
    uint16_t id;       /* by which the back-end knows it */
    bool skipped;      /* completed without an entry of its own */
    uint32_t expected; /* length that the guest has to see */
    struct kit_buf bufs[];
};

/* Memory for buffers and tables, in cells of one size. */
struct pool {
    uint64_t base;
    uint32_t cell;
    uint32_t *spare;
    uint32_t count;
};

/* The plain queue. */
struct queue {
    struct chain **chains; /* by number modulo `room` */
    uint64_t room;         /* a power of two of at least the ring's size */
    uint64_t offered;
    uint64_t taken;
    uint64_t reaped;
    /* Completed by the back-end in this order; relayed is how far the relay has carried them. */
    struct chain **completed;
    uint64_t completed_count;
    uint64_t relayed;
};

struct guest {
    struct kit_driver *driver;
    struct pool cells;
    struct pool bigs;
    uint64_t goal;          /* chains to offer altogether */
    unsigned long_percent;  /* of its chains are long */
    unsigned burst_percent; /* of its turns fill the ring */
    bool call;              /* its call eventfd */
    bool awake;
};

struct backend {
    struct kit_device *device;
    bool shadow; /* on the shadow ring */
    bool kick;   /* the kick eventfd of the ring it serves */
    bool awake;
    bool stopping; /* takes no more */
    struct chain **taken;
    unsigned taken_count;
    unsigned lazy_percent;   /* of its turns it takes nothing in */
    unsigned greedy_percent; /* of the others it takes all there is in */
};

enum phase { PHASE_DIRECT, PHASE_TO_SHADOW, PHASE_SHADOW, PHASE_TO_DIRECT };

struct host {
    enum phase phase;
    struct svq_relay *relay;
    bool guest_kick; /* eventfds that svqd watches while it shadows */
    bool backend_call;
    bool hot;
    bool idle;       /* its last turn moved nothing */
    bool base_known; /* the back-end has answered GET_VRING_BASE */
    uint16_t base;
    uint64_t relayed_before; /* queue.relayed when this relay started */
    uint64_t bytes;

    bool logging;
    bool log_used;
    struct kit_log log;
    uint8_t expected[(MODEL_PAGES + 7) / 8];
    bool has_old; /* a log that was swapped out, and what was in it */
    struct kit_log old;
    uint8_t old_bits[(MODEL_PAGES + 7) / 8];
};

struct totals {
    uint64_t scenarios, chains, buffers, switches, quiesces, logged_chains, kicks, calls;
};

struct world {
    uint64_t seed;
    struct kit_rng rng;
    unsigned num;
    uint64_t features;
    bool event_idx, indirect, in_order;
    uint16_t first; /* ring index of chain 0 */
    struct kit_memory *memory;
    struct queue queue;
    struct guest guest;
    struct backend backend;
    struct host host;
    bool quiescing;
    struct totals *totals;
    struct rings *rings;
};

/* Print what went wrong and the command that repeats it; exit. */
void model_fail(const struct world *w, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));
#define model_check(w, condition, ...)  \
    do {                                \
        if (!(condition))               \
            model_fail(w, __VA_ARGS__); \
    } while (0)

/* The bytes that belong at the ends of a buffer; what lies between is left out for speed. */
void model_fill(const struct world *w, const struct kit_buf *buf, uint64_t value);
bool model_filled(const struct world *w, const struct kit_buf *buf, uint64_t value);
uint64_t model_value(const struct chain *chain, unsigned i, bool answer);

/* ---- guest.c ------------------------------------------------------------------------------- */

void guest_init(struct world *w);
void guest_free(struct world *w);
/* One step of its life. Return: it did something or may yet. */
bool guest_step(struct world *w);

/* ---- backend.c ----------------------------------------------------------------------------- */

void backend_init(struct world *w);
void backend_free(struct world *w);
/* Serve a ring from an index on; awake, as after a kick. */
void backend_attach(struct world *w, bool shadow, uint16_t base);
bool backend_step(struct world *w);

/* ---- host.c -------------------------------------------------------------------------------- */

void host_init(struct world *w);
void host_free(struct world *w);
bool host_step(struct world *w);
/* Somebody wants the other mode; ignored while a switch is under way. */
void host_toggle(struct world *w);
/* Something random about the dirty log. */
void host_change_log(struct world *w);
/* A new memory table with the same memory in it. */
void host_change_memory(struct world *w);
/* Notifications of the guest and the back-end, to whoever listens now. */
void host_guest_kicks(struct world *w);
void host_backend_calls(struct world *w);

/* ---- rings.c ------------------------------------------------------------------------------- */

void rings_init(struct world *w);
void rings_free(struct world *w);
struct kit_device *rings_device(struct world *w, bool shadow, uint16_t base);
struct svq_relay *rings_relay(struct world *w, uint16_t base);
/* Map guest memory anew and give the relay its ring there. */
void rings_remap(struct world *w, struct svq_relay *relay);
/* What the relay has written in the guest's ring between the two calls; see host.c. */
struct ring_mark {
    uint16_t used;
    uint16_t suppression;
};
struct ring_mark rings_mark(const struct world *w);
/* Set the pages that were certainly written in `must`, those that may have been in `may`. */
void rings_written(const struct world *w, struct ring_mark before, uint8_t *must, uint8_t *may);
uint64_t rings_log_address(const struct world *w);
/* First and last page of the guest's rings. */
#define RINGS_FIRST_PAGE (MODEL_GPA / MODEL_PAGE)
#define RINGS_END_PAGE   (MODEL_CELLS / MODEL_PAGE)

static inline void model_set_page(uint8_t *bits, uint64_t page)
{
    bits[page / 8] |= (uint8_t)(1u << (page % 8));
}

static inline void model_set_range(uint8_t *bits, uint64_t gpa, uint64_t len)
{
    for (uint64_t page = gpa / MODEL_PAGE; len && page <= (gpa + len - 1) / MODEL_PAGE; page++)
        model_set_page(bits, page);
}

#endif
