/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model test: a random guest, a random back-end and a random operator around the relay, checked
 * against a plain queue. One thread; what runs next is drawn by lot, so a seed repeats everything.
 *
 *   scenario.c draws what a scenario is made of and who acts next
 *   guest.c    offers chains, sleeps until called, checks what comes back
 *   chains.c   shapes and memory of the guest's chains
 *   backend.c  takes and completes chains on whichever ring it has, sleeps until kicked
 *   host.c     what svqd does: turns of the relay, switches, renewed and resumed shadows, and
 *              another back-end when one crashes, another svqd when it is killed
 *   log.c      dirty logs, with a second opinion on every bit
 *   rings.c    the only file that knows a ring format
 *
 * The plain queue: chains are taken in the order in which they were offered (queue.chains by
 * number), each is completed once, with the length that the back-end gave. A back-end that crashes
 * had completed what its ring says; what else it had taken comes again, before anything new. When
 * svqd is killed, so does all that the guest has not got.
 *
 * Where the relay shares the guest's descriptor table, a length is passed on as it is unless it has
 * looked into the chain: when it was taken, since there was a log or svqd had been killed, or when
 * it came back, since there is a log or a batch passed it over.
 *
 * Guest and back-end have formats and features of their own. Only if they are the same may the
 * back-end serve the guest's ring itself, and a scenario switches between that and the shadow.
 * Otherwise it is shadowed throughout, and a switch renews the shadow.
 */
#ifndef SVQ_TESTS_MODEL_H
#define SVQ_TESTS_MODEL_H

#include <shadowvq/inflight.h>
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
#define MODEL_BIG_COUNT  128u
#define MODEL_HUGES      (MODEL_BIGS + (uint64_t)MODEL_BIG * MODEL_BIG_COUNT)
#define MODEL_HUGE       524288u
#define MODEL_HUGE_COUNT 4u
#define MODEL_END        (MODEL_HUGES + (uint64_t)MODEL_HUGE * MODEL_HUGE_COUNT)
#define MODEL_PAGES      (MODEL_END / MODEL_PAGE)
#define MODEL_MAX_BUFS   65536u
/* Tables may be that long even in a small ring: the longest that drivers in the field make. */
#define MODEL_MAX_TABLE 1024u

/* What a ring has: format and features, as bits; both sides together make a combination. */
#define KIND_PACKED    1u
#define KIND_EVENT_IDX 2u
#define KIND_INDIRECT  4u
#define KIND_IN_ORDER  8u
#define KINDS          16u
#define COMBINATIONS   (KINDS * KINDS)

struct side {
    unsigned kind;
    enum svq_ring_format format;
    uint64_t features;
    bool packed, event_idx, indirect, in_order;
    unsigned num;
};

enum chain_state { CHAIN_OFFERED, CHAIN_TAKEN, CHAIN_COMPLETED };

struct chain {
    uint64_t number;
    enum chain_state state;
    unsigned count;
    unsigned direct;
    uint64_t table; /* gpa of its indirect table; 0: none */
    bool scatter;
    bool carved; /* its buffers are pieces of big cells */
    uint64_t bytes;
    uint64_t writable;
    uint16_t start;    /* index in the guest's ring, as in the lower half of a base */
    uint16_t id;       /* by which the back-end knows it */
    bool skipped;      /* completed without an entry of its own */
    uint32_t expected; /* length that the guest has to see */
    uint32_t said;     /* length that the back-end gave */
    bool read;         /* shared descriptors: the relay knows what is in it */
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
    /* Completed by the back-end in this order; relayed is how many of them the guest has got. */
    struct chain **completed;
    uint64_t completed_count;
    uint64_t relayed;
};

struct guest {
    struct kit_driver *driver;
    struct pool cells;
    struct pool bigs;
    struct pool huges;
    struct chain *wish;     /* a chain that waits until the ring has room for it */
    uint64_t goal;          /* chains to offer altogether */
    unsigned long_percent;  /* of its chains are long */
    unsigned most_percent;  /* of these are as long as may be */
    unsigned burst_percent; /* of its turns fill the ring */
    unsigned delay_percent; /* of its sleeps are to be ended late */
    bool call;              /* its call eventfd */
    bool awake;
};

struct backend {
    struct kit_device *device;
    bool shadow; /* on the shadow ring */
    bool kick;   /* the kick eventfd of the ring it serves */
    bool awake;
    bool stopping;        /* takes no more */
    bool keeping;         /* completes nothing, as a network card without packets */
    bool short_base;      /* packed: answers with 16 bits only */
    uint16_t next_slot;   /* where the next chain begins, if the relay numbers slots in order */
    struct chain **taken; /* in the order in which they were offered, always */
    unsigned taken_count;
    struct chain **redo; /* what a predecessor took with it, to come again in the same order */
    unsigned redo_first;
    unsigned redo_count;
    unsigned lazy_percent;   /* of its turns it takes nothing in */
    unsigned greedy_percent; /* of the others it takes all there is in */
};

enum phase { PHASE_DIRECT, PHASE_TO_SHADOW, PHASE_SHADOW, PHASE_FROM_SHADOW };

/* Where a stopped shadow goes on. */
enum next { NEXT_DIRECT, NEXT_RENEWED, NEXT_RESUMED };

struct host {
    enum phase phase;
    enum next next;
    struct svq_relay *relay;
    bool guest_kick; /* eventfds that svqd watches while it shadows */
    bool backend_call;
    bool hot;
    bool idle;       /* its last turn moved nothing */
    bool patient;    /* stops no back-end that owes what an earlier one was given */
    bool held;       /* the relay takes nothing: a switch is under way */
    bool base_known; /* the back-end has answered GET_VRING_BASE */
    uint32_t base;
    bool inherited;          /* from a relay that was killed */
    uint64_t relayed_before; /* queue.relayed when this relay started */
    uint64_t given;          /* chains before this one were given to an earlier back-end */
    uint64_t taken;          /* chains before this one were taken by the relay */
    bool shared;             /* the back-end has the guest's descriptor table */
    uint64_t bytes;

    bool logging;
    bool log_ring;
    struct kit_log log;
    uint8_t expected[(MODEL_PAGES + 7) / 8];
    bool has_old; /* a log that was swapped out, and what was in it */
    struct kit_log old;
    uint8_t old_bits[(MODEL_PAGES + 7) / 8];
};

struct totals {
    uint64_t scenarios, chains, buffers, switches, renewals, resumptions, quiesces, logged_chains;
    uint64_t kicks, calls, waits, reorders;
    uint64_t crashes, faulty_crashes, deaths, redone, stuck, awaited;
    uint64_t shared, unread; /* chains that came back in shared mode, and of these unread */
    uint64_t pairs[2][2];    /* scenarios by format: guest, back-end */
    uint64_t pair_chains[2][2];
    uint64_t drawn[COMBINATIONS];
};

struct world {
    uint64_t seed;
    struct kit_rng rng;
    struct side front; /* the guest's ring */
    struct side back;  /* the shadow ring */
    bool same;         /* the back-end may serve the guest's ring */
    bool tracked;      /* there is an in-flight region */
    bool may_share;    /* the relay may give the back-end the guest's descriptors */
    uint16_t first;    /* ring index of chain 0, as in the lower half of a base */
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

/* ---- scenario.c ---------------------------------------------------------------------------- */

/* Everything about it comes from the seed. The caller owns memory and totals. */
void scenario_init(struct world *w, uint64_t seed, struct kit_memory *memory,
                   struct totals *totals);
void scenario_run(struct world *w);
void scenario_free(struct world *w);
/* "packed+event_idx+indirect"; in one of a few buffers that are used in turn. */
const char *scenario_kind_name(unsigned kind);

/* ---- chains.c ------------------------------------------------------------------------------ */

void pools_init(struct guest *g);
void pools_free(struct guest *g);

/* A chain of a random shape with memory of its own; NULL: no memory is left. */
struct chain *chain_new(struct world *w);
void chain_free(struct world *w, struct chain *chain);

/* The bytes that belong at the ends of a buffer; what lies between is left out for speed. */
void chain_fill(const struct world *w, const struct chain *chain, unsigned i, bool answer);
bool chain_filled(const struct world *w, const struct chain *chain, unsigned i, bool answer);

/* ---- guest.c ------------------------------------------------------------------------------- */

void guest_init(struct world *w);
void guest_free(struct world *w);
/* One step of its life. Return: it did something or may yet. */
bool guest_step(struct world *w);

/* ---- backend.c ----------------------------------------------------------------------------- */

void backend_init(struct world *w);
void backend_free(struct world *w);
/* Serve a ring from an index on; awake, as after a kick. */
void backend_attach(struct world *w, bool shadow, uint32_t base);
bool backend_step(struct world *w);
/* The answer to GET_VRING_BASE; from then on it takes nothing. */
uint32_t backend_stop(struct world *w);
/* It is gone, and has left its ring as rings are left. Return: with a fault in it. */
bool backend_crash(struct world *w);
/* It is gone, and what it had completed and the guest has not got is so, too. */
void backend_lose(struct world *w);
/* Is all that it has to take at the end of what the guest has offered, without a gap? */
bool backend_untaken_in_row(const struct world *w);
/* The number of the oldest chain that no back-end has completed. */
uint64_t backend_oldest(const struct world *w);

/* ---- host.c -------------------------------------------------------------------------------- */

/* After guest and back-end. */
void host_init(struct world *w);
void host_free(struct world *w);
bool host_step(struct world *w);
/* Somebody wants the other mode, or another shadow; ignored while a switch is under way. */
void host_toggle(struct world *w);
/* The back-end of a shadow crashes, and another begins. */
void host_crash(struct world *w);
/* svqd is killed while it shadows, and comes back with the in-flight region. */
void host_die(struct world *w);
/* A new memory table with the same memory in it. */
void host_change_memory(struct world *w);
/* Notifications of the guest and the back-end, to whoever listens now. */
void host_guest_kicks(struct world *w);
void host_backend_calls(struct world *w);

/* ---- log.c --------------------------------------------------------------------------------- */

/* Something random about the dirty log. */
void log_change(struct world *w);
/* The relay is about to go, or the scenario ends. */
void log_stop(struct world *w);
void log_free(struct world *w);
/* The guest has got that chain. */
void log_expect(struct world *w, const struct chain *chain);
/* Compare every bit. */
void log_check(struct world *w);

/* ---- rings.c ------------------------------------------------------------------------------- */

void rings_init(struct world *w);
void rings_free(struct world *w);
struct kit_device *rings_device(struct world *w, bool shadow, uint32_t base);
/* The guest's ring was served by somebody else, up to there: the in-flight region does not know. */
void rings_forget(struct world *w, uint32_t base);
/* A relay on a fresh shadow ring; it goes on where the in-flight region says, if that knows. */
struct svq_relay *rings_relay(struct world *w, uint32_t base);
/* The relay goes on with another shadow ring; the old one's memory goes away. */
void rings_restart(struct world *w, struct svq_relay *relay);
/* How many chains does the in-flight region list? */
unsigned rings_listed(const struct world *w);
/* The base of a fresh shadow ring. */
uint32_t rings_shadow_start(const struct world *w);
/* Map guest memory anew and give the relay its ring there. */
void rings_remap(struct world *w, struct svq_relay *relay);
struct svq_relay_log rings_log(const struct world *w);
/* The base of the guest's ring when every chain before this index has been taken and completed. */
uint32_t rings_base(const struct world *w, uint16_t index);

/*
 * What the relay does to the guest's ring: rings_begin() before it may, then rings_next() for each
 * completion that is new, then rings_written() for the pages of the ring.
 */
void rings_begin(struct world *w);
struct chain *rings_next(struct world *w);
/* Set the pages that were certainly written since in `must`, those that may have been in `may`. */
void rings_written(const struct world *w, uint8_t *must, uint8_t *may);
/* Completions up to here are none of the relay's doing. */
void rings_skip(struct world *w);
/* Does the relay's opinion of the ring agree with what is there? */
void rings_check_state(const struct world *w, const struct svq_relay_state *state);

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
