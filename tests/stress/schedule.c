/* SPDX-License-Identifier: BSD-3-Clause */
#include "probe.h"
#include "stress.h"

/* So many steps without a completed chain, and it is a standstill in which everyone is busy. */
#define STEPS_MAX 1000000u

enum state {
    WORK,    /* take, add, complete, poll */
    PUBLISH, /* make it visible, and see who wants to know */
    NOTIFY,  /* tell them */
    ASK,     /* nothing to do: ask to be told */
    LOOK,    /* but look again */
    ASLEEP
};

struct play {
    struct world *world;
    struct tally *tally;
    struct kit_rng rng;
    uint64_t rounds;
    enum state state[ACTORS];
    bool event[ACTORS];  /* an eventfd for each: has been written and not been read */
    bool notify[ACTORS]; /* the relay is about to */
    bool inside;         /* the relay is in the midst of a call */
};

static void notify(struct play *p, enum actor whom)
{
    p->event[whom] = true;
    p->tally->notified[whom]++;
}

static bool runnable(const struct play *p, enum actor who)
{
    if (who == RELAY && p->inside)
        return false;
    return p->state[who] != ASLEEP || p->event[who];
}

static void fall_asleep(struct play *p, enum actor who)
{
    p->state[who] = ASLEEP;
    p->tally->sleeps[who] += !p->event[who];
}

/* ---- The guest ---------------------------------------------------------------------------------
 */

static void guest_works(struct play *p)
{
    unsigned reaped = guest_reap(p->world);

    if (guest_add(p->world, p->rounds))
        p->state[GUEST] = PUBLISH;
    else if (!reaped)
        p->state[GUEST] = ASK;
}

static void guest_step(struct play *p)
{
    switch (p->state[GUEST]) {
    case WORK:
        guest_works(p);
        break;
    case PUBLISH:
        p->state[GUEST] = guest_publish(p->world) ? NOTIFY : WORK;
        break;
    case NOTIFY:
        notify(p, RELAY);
        p->state[GUEST] = WORK;
        break;
    case ASK:
        p->event[GUEST] = false;
        guest_ask(p->world, true);
        p->state[GUEST] = LOOK;
        break;
    case LOOK:
        if (!guest_pending(p->world)) {
            fall_asleep(p, GUEST);
            break;
        }
        /* fall through */
    case ASLEEP:
        guest_ask(p->world, false);
        p->state[GUEST] = WORK;
        break;
    }
}

/* ---- The back-end ------------------------------------------------------------------------------
 */

static void backend_works(struct play *p)
{
    unsigned taken = backend_take(p->world);

    if (backend_complete(p->world))
        p->state[BACKEND] = PUBLISH;
    else if (!taken)
        p->state[BACKEND] = ASK;
}

static void backend_step(struct play *p)
{
    switch (p->state[BACKEND]) {
    case WORK:
        backend_works(p);
        break;
    case PUBLISH:
        p->state[BACKEND] = backend_publish(p->world) ? NOTIFY : WORK;
        break;
    case NOTIFY:
        notify(p, RELAY);
        p->state[BACKEND] = WORK;
        break;
    case ASK:
        p->event[BACKEND] = false;
        backend_ask(p->world, true);
        p->state[BACKEND] = LOOK;
        break;
    case LOOK:
        if (!backend_pending(p->world)) {
            fall_asleep(p, BACKEND);
            break;
        }
        /* fall through */
    case ASLEEP:
        backend_ask(p->world, false);
        p->state[BACKEND] = WORK;
        break;
    }
}

/* ---- The relay ---------------------------------------------------------------------------------
 */

/* Between two of the relay's accesses. */
static void others_act(void *arg)
{
    struct play *p = arg;
    unsigned steps = kit_between(&p->rng, 1, 8);
    enum actor who = kit_percent(&p->rng, 50) ? GUEST : BACKEND;

    p->tally->between++;
    for (; steps && runnable(p, who); steps--) {
        if (who == GUEST)
            guest_step(p);
        else
            backend_step(p);
    }
}

static void relay_works(struct play *p)
{
    unsigned bits;

    p->inside = true;
    bits = relay_poll(p->world);
    p->inside = false;

    p->notify[BACKEND] = bits & SVQ_RELAY_KICK_BACKEND;
    p->notify[GUEST] = bits & SVQ_RELAY_CALL_GUEST;
    if (bits & (SVQ_RELAY_KICK_BACKEND | SVQ_RELAY_CALL_GUEST))
        p->state[RELAY] = NOTIFY;
    else if (!(bits & SVQ_RELAY_BUSY))
        p->state[RELAY] = ASK;
}

/* A system call: whatever was stored before it is seen after it. */
static void relay_notifies(struct play *p)
{
    enum actor first = kit_percent(&p->world->relay_rng, 50) ? GUEST : BACKEND;
    enum actor whom = p->notify[first] ? first : first == GUEST ? BACKEND : GUEST;

    probe_flush();
    if (p->notify[whom])
        notify(p, whom);
    p->notify[whom] = false;
    if (!p->notify[GUEST] && !p->notify[BACKEND])
        p->state[RELAY] = WORK;
}

/* Return: whether there is work after all. */
static bool relay_arms(struct play *p)
{
    bool work;

    p->event[RELAY] = false;
    p->inside = true;
    work = svq_relay_arm(p->world->relay);
    p->inside = false;
    return work;
}

static void relay_disarms(struct play *p)
{
    p->inside = true;
    svq_relay_disarm(p->world->relay);
    p->inside = false;
    p->state[RELAY] = WORK;
}

static void relay_step(struct play *p)
{
    switch (p->state[RELAY]) {
    case WORK:
    case PUBLISH:
        relay_works(p);
        break;
    case NOTIFY:
        relay_notifies(p);
        break;
    case ASK:
    case LOOK:
        if (!relay_arms(p)) {
            probe_flush();
            fall_asleep(p, RELAY);
            break;
        }
        /* fall through */
    case ASLEEP:
        relay_disarms(p);
        break;
    }
}

/* ---- The play ----------------------------------------------------------------------------------
 */

static void step(struct play *p, enum actor who)
{
    static void (*const steps[ACTORS])(struct play * p) = {
        [GUEST] = guest_step, [RELAY] = relay_step, [BACKEND] = backend_step};

    steps[who](p);
}

/* Whose turn it is. Return: false when nobody can move. */
static bool draw_actor(struct play *p, enum actor *who)
{
    unsigned count = 0;

    for (unsigned i = 0; i < ACTORS; i++)
        count += runnable(p, (enum actor)i);
    if (!count)
        return false;
    count = kit_below(&p->rng, count);
    for (*who = GUEST;; ++*who)
        if (runnable(p, *who) && !count--)
            return true;
}

static void dump(const struct play *p, FILE *out)
{
    static const char *const actors[ACTORS] = {"guest", "relay", "back-end"};
    static const char *const states[] = {"working", "publishing", "notifying",
                                         "asking",  "looking",    "asleep"};

    for (unsigned i = 0; i < ACTORS; i++)
        fprintf(out, "  %s is %s, its event is %s\n", actors[i], states[p->state[i]],
                p->event[i] ? "set" : "clear");
    world_dump(p->world, out);
}

const char stress_program[] = "stress-schedule";

bool stress_run(struct world *w, uint64_t rounds, const struct stress_options *options,
                struct tally *tally, FILE *out)
{
    struct play p = {
        .world = w,
        .tally = tally,
        .rng.state = w->config.seed ^ 0x5bd1e995,
        .rounds = rounds,
    };
    enum probe_memory memory = (enum probe_memory)kit_below(&p.rng, 3);
    uint64_t done = 0, probed = probe_count();
    unsigned idle = 0;

    probe_start(memory, kit_rand(&p.rng), options->between, others_act, &p);
    while (w->done < rounds && !w->trouble && idle < STEPS_MAX) {
        enum actor who;

        if (!draw_actor(&p, &who))
            break;
        step(&p, who);
        idle = w->done == done ? idle + 1 : 0;
        done = w->done;
    }
    probe_stop();
    tally->rounds += w->done;
    probed = probe_count() - probed;
    tally->accesses += probed;
#ifndef PROBE_NOTHING
    /* Else this is the plain relay, and most of what this looks for cannot happen. */
    kit_require(probed > 0);
#endif
    if (w->done == rounds && !w->trouble)
        return true;
    dump(&p, out);
    return false;
}
