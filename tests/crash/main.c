/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Programs are killed at any moment, again and again, while a guest does I/O that it verifies. It
 * may see a pause, and nothing else: no error, no wrong byte, no request that is lost or completed
 * twice.
 */
#include "crash.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim/clock.h"
#include "sim/random.h"

#define VERIFY_EVERY 25 /* kills */
#define PROGRESS_MS  30000
#define TRIES        200
#define ENOUGH       50 /* kills that must have met everything */

static const char *const modes[] = {"direct",    "pass-through", "shadow",
                                    "switching", "migrating",    "swapping"};
static const char *const victims[] = {"backend", "svqd", "both", "any"};

static const char help[] =
    "Usage: svq-crash --ramdisk PATH [--svqd PATH] [OPTION]...\n"
    "\n"
    "  --mode direct|pass-through|shadow|switching|migrating|swapping\n"
    "                   direct: no svqd (default pass-through)\n"
    "  --victim backend|svqd|both|any                who is killed (default any)\n"
    "  --packed         the guest has packed rings\n"
    "  --listen         svqd listens, and its back-end connects\n"
    "  --steps          the back-end kills itself between two stores to the in-flight region\n"
    "  --kills N        default 100\n"
    "  --delay-us N     that requests take on average (default 300)\n"
    "  --seed N         default: the time\n"
    "  --keep           keep the temporary directory\n";

static void nap_us(uint64_t us)
{
    const struct timespec pause = {.tv_sec = (time_t)(us / 1000000),
                                   .tv_nsec = (long)(us % 1000000 * 1000)};

    nanosleep(&pause, NULL);
}

static uint64_t below(struct world *world, uint64_t limit)
{
    return sim_random_below(&world->random, limit);
}

static uint64_t completed(const struct world *world)
{
    struct sim_blk_stats stats;

    sim_blk_stats(world->blk, &stats);
    return stats.requests;
}

/* ---- Killing ------------------------------------------------------------------------------- */

/* One that kills itself gets some time for it. */
static int await_suicide(struct world *world)
{
    unsigned before = atomic_load(&world->tally.backends);

    for (unsigned i = 0; i < 100 && below(world, 32); i++) {
        if (atomic_load(&world->tally.backends) != before)
            return 0;
        nap_us(1000);
    }
    pthread_mutex_lock(&world->lock);
    if (!sim_child_kill(&world->ramdisk))
        atomic_fetch_add(&world->tally.backends, 1);
    pthread_mutex_unlock(&world->lock);
    return 0;
}

static int kill_backend(struct world *world)
{
    if (world->options.steps)
        return await_suicide(world);
    atomic_fetch_add(&world->tally.backends, 1);
    return sim_child_kill(&world->ramdisk) ? fail(world, "svq-ramdisk ended before it was killed")
                                           : 0;
}

static int kill_svqd(struct world *world)
{
    world->tally.svqds++;
    return sim_child_kill(&world->svqd) ? fail(world, "svqd ended before it was killed") : 0;
}

/*
 * The guest's VMM connects again. A back-end that dies meanwhile (with --steps) may break that when
 * there is no svqd to hide it.
 */
static int reconnect(struct world *world)
{
    for (unsigned i = 0; i < TRIES; i++) {
        if (!sim_guest_reconnect(world->guest, world->frontend, PROGRESS_MS))
            return 0;
        if (world->options.mode != DIRECT || !world->options.steps)
            break;
        world->tally.retried++;
        nap_us(2000);
    }
    return check(world) ? -1 : fail(world, "%s", world->guest->session.error);
}

/*
 * Until a request completes that can only have been completed since.
 * @backends: how many had been killed when the last one was connected to
 */
static int await_progress(struct world *world, uint64_t killed, unsigned backends)
{
    uint64_t before = completed(world);

    while (completed(world) == before) {
        if (check(world))
            return -1;
        if (sim_now() - killed > PROGRESS_MS * UINT64_C(1000000))
            return fail(world, "no request has completed since the kill");
        /* Dead again already, and nobody but us would connect again. */
        if (world->options.mode == DIRECT && world->options.steps &&
            atomic_load(&world->tally.backends) != backends)
            return 0;
        nap_us(200);
    }
    world->tally.outage_us[world->tally.outages++] = (uint32_t)((sim_now() - killed) / 1000);
    return 0;
}

static enum victim choose(struct world *world)
{
    enum victim victim = world->options.victim;

    if (world->options.mode == DIRECT)
        return BACKEND;
    return victim == ANY ? (enum victim)below(world, 3) : victim;
}

/* ---- Freezing ------------------------------------------------------------------------------ */

struct freeze {
    pthread_t thread;
    pid_t pid; /* 0: nobody */
    uint64_t us;
};

static void *thaw(void *opaque)
{
    const struct freeze *freeze = opaque;

    nap_us(freeze->us);
    kill(freeze->pid, SIGCONT);
    return NULL;
}

/* Sometimes the survivor stands still meanwhile, and learns of everything at once afterwards. */
static void freeze(struct world *world, struct freeze *freeze, bool backend_dies, bool svqd_dies)
{
    struct sim_child *child = backend_dies ? &world->svqd : &world->ramdisk;

    freeze->pid = 0;
    if (world->options.mode == DIRECT || backend_dies == svqd_dies || below(world, 5))
        return;
    /* One that may kill itself has no pid to rely on. */
    if (svqd_dies && world->options.steps)
        return;
    freeze->us = below(world, 80000);
    if (kill(child->pid, SIGSTOP))
        return;
    freeze->pid = child->pid;
    if (pthread_create(&freeze->thread, NULL, thaw, freeze)) {
        kill(child->pid, SIGCONT);
        freeze->pid = 0;
        return;
    }
    world->tally.frozen++;
}

static void await_thaw(struct freeze *freeze)
{
    if (freeze->pid)
        pthread_join(freeze->thread, NULL);
}

/* ---- A round ------------------------------------------------------------------------------- */

static int kill_them(struct world *world, bool backend, bool svqd, bool svqd_first)
{
    struct switching switching;
    int ret = switching_begin(world, &switching);

    if (!ret && svqd && svqd_first)
        ret = kill_svqd(world);
    if (!ret && backend)
        ret = kill_backend(world);
    if (!ret && svqd && !svqd_first)
        ret = kill_svqd(world);
    return switching_end(&switching, svqd) ? -1 : ret;
}

/* Kill, start again, connect again. Return: 0 or -1. */
static int strike(struct world *world, bool backend, bool svqd, unsigned *backends)
{
    bool first = below(world, 2);
    int in_flight;

    if (kill_them(world, backend, svqd, first))
        return -1;
    if (world->options.mode == DIRECT || svqd) {
        in_flight = sim_guest_in_flight(world->guest);
        world->tally.in_flight += in_flight > 0 ? (unsigned)in_flight : 0;
    }
    if (below(world, 4) == 0)
        nap_us(below(world, 60000));
    if (svqd && first && start_svqd(world))
        return -1;
    if (backend && !world->options.steps && start_ramdisk(world))
        return -1;
    if (svqd && !first && start_svqd(world))
        return -1;
    *backends = atomic_load(&world->tally.backends);
    return world->options.mode == DIRECT || svqd ? reconnect(world) : 0;
}

static int kill_once(struct world *world)
{
    enum victim victim = choose(world);
    bool backend = victim != SVQD, svqd = victim != BACKEND;
    uint64_t killed = sim_now();
    struct freeze frozen;
    unsigned backends;
    int ret;

    freeze(world, &frozen, backend, svqd);
    ret = strike(world, backend, svqd, &backends);
    await_thaw(&frozen);
    if (ret)
        return -1;
    world->tally.kills++;
    /* Sometimes the next one dies while it recovers. */
    return below(world, 4) ? await_progress(world, killed, backends) : check(world);
}

/* ---- Verifying ----------------------------------------------------------------------------- */

/* With a back-end that lives: what is in flight completes, and the whole disk is right. */
static int verify(struct world *world, bool go_on)
{
    int ret = mind_no_more(world);

    if (!ret && world->options.steps && world->options.mode == DIRECT)
        ret = reconnect(world);
    if (!ret && (sim_blk_finish(world->blk) || sim_blk_scan(world->blk)))
        ret = check(world) ? -1 : fail(world, "the guest's threads do not start");
    world->running = false;
    if (!ret)
        ret = check(world);
    if (ret)
        return -1;
    /* A completion is seen before the region says so. */
    for (unsigned i = 0; i < 1000 && sim_guest_in_flight(world->guest); i++)
        nap_us(1000);
    if (sim_guest_in_flight(world->guest))
        return fail(world, "everything is complete, but by the in-flight region %d are not",
                    sim_guest_in_flight(world->guest));
    world->tally.verified++;
    if (!go_on)
        return 0;
    world->running = true;
    if (sim_blk_run(world->blk))
        return fail(world, "the guest's threads do not start");
    return world->options.steps ? mind(world) : 0;
}

static int run(struct world *world)
{
    nap_us(20000);
    if (check(world) || expect_mode(world) || (world->options.steps && mind(world)) ||
        (world->options.mode == MIGRATING && begin_migration(world)))
        return -1;
    while (world->tally.kills < world->options.kills) {
        nap_us(below(world, 8) ? below(world, 20000) : 0);
        if (world->options.mode == SWITCHING && below(world, 2) && switch_shadow(world))
            return -1;
        if (world->options.mode == SWAPPING &&
            ((!below(world, 4) && switch_shadow(world)) || swap(world)))
            return -1;
        if (kill_once(world) || (world->options.mode == MIGRATING && migrate(world)))
            return -1;
        if (world->tally.kills % VERIFY_EVERY == 0 && verify(world, true))
            return -1;
    }
    if (verify(world, false))
        return -1;
    if (sim_guest_stop(world->guest))
        return fail(world, "%s", world->guest->session.error);
    return world->options.mode == MIGRATING ? end_migration(world) : 0;
}

/* ---- Options and report -------------------------------------------------------------------- */

static int find(const char *text, const char *const *names, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (!strcmp(text, names[i]))
            return (int)i;
    }
    fprintf(stderr, "svq-crash: what is \"%s\"?\n%s", text, help);
    exit(2);
}

static void take_option(struct options *options, int opt)
{
    switch (opt) {
    case 'd':
        options->svqd = optarg;
        break;
    case 'r':
        options->ramdisk = optarg;
        break;
    case 'm':
        options->mode = (enum mode)find(optarg, modes, 6);
        break;
    case 'v':
        options->victim = (enum victim)find(optarg, victims, 4);
        break;
    case 'k':
        options->kills = (unsigned)strtoul(optarg, NULL, 10);
        break;
    case 'u':
        options->delay_us = (unsigned)strtoul(optarg, NULL, 10);
        break;
    case 's':
        options->seed = strtoull(optarg, NULL, 10);
        break;
    case 'p':
        options->packed = true;
        break;
    case 'l':
        options->listen = true;
        break;
    case 't':
        options->steps = true;
        break;
    case 'K':
        options->keep = true;
        break;
    default:
        fputs(help, opt == 'h' ? stdout : stderr);
        exit(opt == 'h' ? 0 : 2);
    }
}

static void parse(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"svqd", required_argument, NULL, 'd'},
        {"ramdisk", required_argument, NULL, 'r'},
        {"mode", required_argument, NULL, 'm'},
        {"victim", required_argument, NULL, 'v'},
        {"kills", required_argument, NULL, 'k'},
        {"delay-us", required_argument, NULL, 'u'},
        {"seed", required_argument, NULL, 's'},
        {"packed", no_argument, NULL, 'p'},
        {"listen", no_argument, NULL, 'l'},
        {"steps", no_argument, NULL, 't'},
        {"keep", no_argument, NULL, 'K'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int opt;

    *options = (struct options){
        .mode = PASS_THROUGH, .victim = ANY, .kills = 100, .delay_us = 300, .seed = sim_now()};
    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1)
        take_option(options, opt);
    if (!options->ramdisk || (!options->svqd && options->mode != DIRECT) || optind != argc ||
        (options->mode == SWAPPING && options->steps) || !options->kills ||
        options->kills > MAX_KILLS) {
        fputs(help, stderr);
        exit(2);
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return left < right ? -1 : left > right;
}

static void report_times(const char *what, uint32_t *us, unsigned count)
{
    qsort(us, count, sizeof(us[0]), compare);
    printf("; %s: median %.1f ms, longest %.1f ms", what, us[count / 2] / 1000.0,
           us[count - 1] / 1000.0);
}

static void report(struct world *world)
{
    struct tally *tally = &world->tally;

    printf("%u kills (%u back-ends, %u svqds), %llu requests, %llu in flight when the guest's "
           "device died, %u freezes, disk verified %u times, %u retries",
           tally->kills, atomic_load(&tally->backends), tally->svqds,
           (unsigned long long)completed(world), (unsigned long long)tally->in_flight,
           tally->frozen, tally->verified, tally->retried);
    if (tally->outages)
        report_times("outages", tally->outage_us, tally->outages);
    if (world->options.mode == SWITCHING)
        printf("; %u switches cut short", tally->midway);
    if (tally->swaps)
        printf("; %u swaps, %u of them refused", tally->swaps, tally->swaps - tally->swapped);
    if (tally->swapped)
        report_times("pauses", tally->pause_us, tally->swapped);
    printf("\n");
}

int main(int argc, char **argv)
{
    static struct world world;
    const struct options *options = &world.options;

    parse(argc, argv, &world.options);
    if (!world_open(&world) && !run(&world)) {
        report(&world);
        /* A test in which nothing was under way when the axe fell would prove nothing. */
        if (!world.tally.outages ||
            (!world.tally.in_flight && (options->mode == DIRECT || options->victim != BACKEND)))
            fail(&world, "nothing was in flight at any kill");
        if (options->mode == SWITCHING && options->kills >= ENOUGH && !world.tally.midway)
            fail(&world, "nobody died in the middle of a switch");
    }
    if (!world_close(&world))
        return 0;
    fprintf(stderr,
            "FAILED after %u kills: %s\nto see it again: --mode %s --victim %s%s%s%s --seed "
            "%llu --delay-us %u\n",
            world.tally.kills, world.error, modes[options->mode], victims[options->victim],
            options->packed ? " --packed" : "", options->listen ? " --listen" : "",
            options->steps ? " --steps" : "", (unsigned long long)options->seed, options->delay_us);
    return 1;
}
