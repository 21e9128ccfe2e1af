/* SPDX-License-Identifier: BSD-3-Clause */
#include "path_world.h"
#include "path_print.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Nothing came back for so long: something is broken. */
#define STALL_NS UINT64_C(5000000000)

static bool fail(struct path_world *world, const char *what, const char *why)
{
    snprintf(world->error, sizeof(world->error), "%s%s%s", what, why ? ": " : "", why ? why : "");
    return false;
}

/* One thread for both ends, unless they are to sleep or are to have a processor each. */
static int open_loops(struct path_world *world, const struct path_options *o, bool sleeps)
{
    bool apart = sleeps || o->device_cpu != PATH_SAME_CPU;
    int cpu = o->device_cpu != PATH_SAME_CPU ? o->device_cpu : o->ends_cpu;
    int ret = bench_loop_new(o->ends_cpu, &world->loop);

    world->device_loop = world->loop;
    if (!ret && apart)
        ret = bench_loop_new(cpu, &world->device_loop);
    if (ret)
        return ret;
    bench_loop_sleeps(world->loop, sleeps);
    bench_loop_sleeps(world->device_loop, sleeps);
    return 0;
}

bool path_world_open(struct path_world *world, const struct path_options *o,
                     const struct guest_end_config *config, bool sleeps)
{
    const char *poll_us = o->poll_us ? o->poll_us : PATH_POLL;
    struct proxy_config proxy = {o->svqd, sleeps ? "0" : poll_us, 1, o->worker_cpu};
    struct device_end_config device = {config->queues, config->batch, config->spins};
    int ret;

    *world = (struct path_world){.sleeps = sleeps, .worker_cpu = o->worker_cpu};
    if (proxy_start(&world->proxy, &proxy))
        return fail(world, world->proxy.error, NULL);
    proxy_path(&world->proxy, world->frontend, sizeof(world->frontend), "frontend.sock");
    proxy_path(&world->proxy, world->backend, sizeof(world->backend), "backend.sock");
    ret = open_loops(world, o, sleeps);
    if (ret)
        return fail(world, "threads for the ends", strerror(-ret));
    world->hop = (struct hop){world->loop, o->ends_cpu, o->worker_cpu, o->hop_ns};
    if (guest_end_init(&world->guest, config, world->loop))
        return fail(world, world->guest.error, NULL);
    ret = device_host_new(&world->host);
    if (!ret)
        ret = device_end_new(world->host, world->backend, &device, world->device_loop,
                             &world->device);
    if (ret)
        return fail(world, "the device", strerror(-ret));
    if (proxy_add(&world->proxy, PATH_DEVICE, world->frontend, world->backend, false))
        return fail(world, world->proxy.error, NULL);
    return true;
}

void path_world_close(struct path_world *world)
{
    if (world->connected)
        guest_end_disconnect(&world->guest);
    world->connected = false;
    proxy_stop(&world->proxy);
    if (world->guest.drivers)
        guest_end_release(&world->guest);
    spinner_release(&world->spinner);
    device_host_free(world->host);
    if (world->device_loop != world->loop)
        bench_loop_free(world->device_loop);
    bench_loop_free(world->loop);
    *world = (struct path_world){0};
}

/* To svqd, or directly to the device. */
static bool reconnect(struct path_world *world, bool direct)
{
    if (world->connected && guest_end_disconnect(&world->guest))
        return fail(world, world->guest.error, NULL);
    world->connected = false;
    if (guest_end_connect(&world->guest, direct ? world->backend : world->frontend))
        return fail(world, world->guest.error, NULL);
    world->connected = true;
    world->mode = direct ? MODE_DIRECT : MODE_PASS;
    guest_end_offer(&world->guest, true);
    return true;
}

bool path_world_enter(struct path_world *world, enum path_mode mode)
{
    if (!world->connected || (world->mode == MODE_DIRECT) != (mode == MODE_DIRECT))
        if (!reconnect(world, mode == MODE_DIRECT))
            return false;
    if (spinner_set(&world->spinner, world->worker_cpu, mode == MODE_SPIN))
        return fail(world, "a thread that spins", NULL);
    if (mode == MODE_DIRECT)
        return true;
    /* The log of a real front-end: VHOST_F_LOG_ALL, and svqd writes into the guest's bitmap. */
    if (mode != MODE_LOG && guest_end_log(&world->guest, false))
        return fail(world, world->guest.error, NULL);
    if (proxy_shadow(&world->proxy, PATH_DEVICE, mode == MODE_SHADOW || mode == MODE_LOG, NULL))
        return fail(world, world->proxy.error, NULL);
    if (mode == MODE_LOG && guest_end_log(&world->guest, true))
        return fail(world, world->guest.error, NULL);
    world->mode = mode;
    return true;
}

/* ---- Slots ----------------------------------------------------------------------------------- */

struct state {
    struct path_world *world;
    uint64_t ns;
    uint64_t ends_ns;
    uint64_t back; /* at the guest */
    uint64_t in_flight;
    uint64_t done; /* by the device */
    const char *fault;
};

/* In the guest's loop: a moment between two turns, with its time. */
static void read_guest(void *arg)
{
    struct state *s = arg;
    struct guest_end *guest = &s->world->guest;
    struct timespec cpu;

    s->back = s->in_flight = 0;
    for (unsigned i = 0; i < guest->config.queues; i++) {
        s->back += guest->drivers[i].done;
        s->in_flight += guest->drivers[i].in_flight;
        if (!s->fault)
            s->fault = guest->drivers[i].fault;
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    s->ends_ns = (uint64_t)cpu.tv_sec * UINT64_C(1000000000) + (uint64_t)cpu.tv_nsec;
    s->ns = bench_now_ns();
}

static void read_device(void *arg)
{
    struct state *s = arg;

    s->done = 0;
    for (unsigned i = 0; i < s->world->guest.config.queues; i++) {
        const struct flow_device *flow = device_end_flow(s->world->device, i);

        s->done += flow->done;
        if (!s->fault)
            s->fault = flow->fault;
    }
}

static void read_both(void *arg)
{
    read_guest(arg);
    read_device(arg);
}

/* What is there, and whether it agrees: what the device has done is back, or still in flight. */
static bool take_state(struct path_world *world, struct state *s)
{
    struct state later = {.world = world};
    char text[160];

    *s = (struct state){.world = world};
    if (world->loop == world->device_loop) {
        bench_loop_call(world->loop, read_both, s);
        later = *s;
    } else {
        /* The device's count lies between the guest's before and after it. */
        bench_loop_call(world->loop, read_guest, s);
        bench_loop_call(world->device_loop, read_device, s);
        bench_loop_call(world->loop, read_guest, &later);
    }
    if (s->fault)
        return fail(world, path_mode_names[world->mode], s->fault);
    if (s->done >= s->back && s->done <= later.back + later.in_flight)
        return true;
    snprintf(text, sizeof(text),
             "counts disagree: the device has done %" PRIu64 " buffers, %" PRIu64
             " came back to the guest, %" PRIu64 " are in flight",
             s->done, s->back, later.in_flight);
    return fail(world, path_mode_names[world->mode], text);
}

static uint64_t waited(const struct path_world *world)
{
    uint64_t ns = bench_thread_use(getpid(), bench_loop_tid(world->loop)).waited;

    if (world->device_loop != world->loop)
        ns += bench_thread_use(getpid(), bench_loop_tid(world->device_loop)).waited;
    return ns + proxy_workers_use(&world->proxy).waited;
}

bool path_world_slot(struct path_world *world, unsigned drop_ms, unsigned slot_ms,
                     struct path_slot *slot)
{
    struct state before, after;
    uint64_t svqd_ns, waited_ns;

    bench_sleep_ms(drop_ms);
    waited_ns = waited(world);
    svqd_ns = proxy_cpu(&world->proxy);
    if (!take_state(world, &before))
        return false;
    do {
        bench_sleep_ms(slot_ms);
        if (!take_state(world, &after))
            return false;
        /* On a busy machine a whole slot may pass before both ends and svqd had their turns. */
    } while (after.back == before.back && after.ns - before.ns < STALL_NS);
    svqd_ns = proxy_cpu(&world->proxy) - svqd_ns;
    waited_ns = waited(world) - waited_ns;
    if (after.back == before.back)
        return fail(world, path_mode_names[world->mode], "nothing moves");
    *slot = (struct path_slot){
        .seconds = (double)(after.ns - before.ns) / 1e9,
        .buffers = after.back - before.back,
        .svqd_ns = svqd_ns,
        .ends_ns = after.ends_ns - before.ends_ns,
        .disturbed =
            !world->sleeps && (double)waited_ns > BENCH_WAITED_MAX * (double)(after.ns - before.ns),
    };
    return true;
}
