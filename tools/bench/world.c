/* SPDX-License-Identifier: BSD-3-Clause */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE      UINT64_C(4096)
#define GUEST_GPA UINT64_C(0x10000000)

struct bench_world {
    struct bench_world_config config;
    struct bench_driver *driver;
    struct bench_device *device;
    struct svq_relay *relay;
    struct svq_map *map;
    unsigned chains; /* that fit the guest's ring */
    const char *trouble;

    uint64_t size; /* of guest memory */
    uint64_t desc_gpa, device_gpa, tables_gpa, data_gpa;
    struct svq_vring guest;
    void *tables_host;

    struct svq_vring shadow;
    unsigned shadow_num;
    struct svq_relay_tables tables;
    void *shadow_memory;
    size_t shadow_size;

    struct svq_log *log;
    uint8_t *log_bits;
    size_t log_size;
};

static uint64_t pages(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static int new_file(uint64_t size)
{
    int fd = memfd_create("svq-bench", MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
        close(fd);
        fd = -1;
    }
    return fd < 0 ? -errno : fd;
}

/* ---- Guest memory ---------------------------------------------------------------------------- */

static int make_guest(struct bench_world *w)
{
    const struct bench_world_config *c = &w->config;
    enum svq_ring_format format = svq_ring_format(c->guest_features);
    uint64_t desc = pages(svq_vring_desc_size(format, c->num));
    uint64_t driver = pages(svq_vring_driver_size(format, c->num));
    uint64_t device = pages(svq_vring_device_size(format, c->num));
    uint64_t tables = pages((uint64_t)w->chains * c->shape.descs * 16);
    struct svq_region region = {.gpa = GUEST_GPA, .uaddr = GUEST_GPA};
    char *host;
    int err;

    w->desc_gpa = GUEST_GPA;
    w->device_gpa = GUEST_GPA + desc + driver;
    w->tables_gpa = w->device_gpa + device;
    w->data_gpa = w->tables_gpa + tables;
    w->size = w->data_gpa - GUEST_GPA + pages((uint64_t)w->chains * BENCH_DATA);
    region.size = w->size;
    region.fd = new_file(region.size);
    if (region.fd < 0)
        return region.fd;
    err = svq_map_new(&region, 1, NULL, &w->map);
    close(region.fd);
    if (err)
        return err;
    host = svq_map_gpa(w->map, GUEST_GPA, region.size);
    w->guest = (struct svq_vring){host, host + desc, host + desc + driver};
    w->tables_host = host + (w->tables_gpa - GUEST_GPA);
    return 0;
}

static int make_log(struct bench_world *w)
{
    struct svq_relay_log log = {.ring = true, .desc_gpa = w->desc_gpa, .device_gpa = w->device_gpa};
    int fd, err;

    w->log_size = (size_t)pages((GUEST_GPA + w->size) / SVQ_LOG_PAGE / 8 + 1);
    fd = new_file(w->log_size);
    if (fd < 0)
        return fd;
    w->log_bits = mmap(NULL, w->log_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (w->log_bits == MAP_FAILED) {
        w->log_bits = NULL;
        err = -errno;
    } else {
        err = svq_log_new(fd, w->log_size, 0, &w->log);
    }
    close(fd);
    if (err)
        return err;
    log.log = w->log;
    svq_relay_set_log(w->relay, &log);
    return 0;
}

/* ---- The shadow ring ------------------------------------------------------------------------- */

static int make_shadow(struct bench_world *w, struct svq_relay_config *relay)
{
    enum svq_ring_format format = svq_ring_format(w->config.backend_features);
    uint64_t desc, driver, device;
    char *memory;

    w->shadow_num = svq_relay_shadow_num(format, w->config.num);
    desc = pages(svq_vring_desc_size(format, w->shadow_num));
    driver = pages(svq_vring_driver_size(format, w->shadow_num));
    device = pages(svq_vring_device_size(format, w->shadow_num));
    relay->backend.num = w->shadow_num;
    relay->tables.size = svq_relay_tables_size(relay);
    w->shadow_size = desc + driver + device + pages(relay->tables.size);
    memory = mmap(NULL, w->shadow_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    w->shadow_memory = memory;
    w->shadow = (struct svq_vring){memory, memory + desc, memory + desc + driver};
    relay->backend.ring = w->shadow;
    if (relay->tables.size) {
        relay->tables.host = memory + desc + driver + device;
        relay->tables.addr = UINT64_C(1) << 40; /* nobody follows it here */
    }
    return 0;
}

static int make_relay(struct bench_world *w)
{
    const struct bench_world_config *c = &w->config;
    struct svq_relay_config relay = {
        .guest = {.num = c->num, .features = c->guest_features, .ring = w->guest},
        .backend = {.features = c->backend_features},
        .map = w->map,
        .may_share = c->share,
    };
    int err = make_shadow(w, &relay);

    if (err)
        return err;
    relay.base =
        svq_ring_format(c->guest_features) == SVQ_RING_PACKED ? SVQ_PACKED_START : SVQ_SPLIT_START;
    err = svq_relay_new(&relay, &w->relay);
    if (err)
        return err;
    if (svq_relay_shares(w->relay))
        w->shadow.desc = w->guest.desc;
    svq_relay_disarm(w->relay);
    return 0;
}

static int make_ends(struct bench_world *w)
{
    const struct bench_world_config *c = &w->config;
    struct bench_driver_config driver = {
        .ring = {svq_ring_format(c->guest_features), c->num, c->guest_features, w->guest},
        .shape = c->shape,
        .data = w->data_gpa,
        .tables = w->tables_gpa,
        .tables_host = w->tables_host,
    };
    struct bench_ring device = {svq_ring_format(c->backend_features), w->shadow_num,
                                c->backend_features, w->shadow};

    w->driver = bench_driver_new(&driver);
    w->device = bench_device_new(&device);
    return w->driver && w->device ? 0 : -ENOMEM;
}

int bench_world_new(const struct bench_world_config *config, struct bench_world **out)
{
    struct bench_world *w = calloc(1, sizeof(*w));
    int err;

    if (!w)
        return -ENOMEM;
    w->config = *config;
    w->chains = bench_ring_holds(config->num, &config->shape);
    err = make_guest(w);
    if (!err)
        err = make_relay(w);
    if (!err)
        err = make_ends(w);
    if (!err && config->log)
        err = make_log(w);
    if (err) {
        bench_world_free(w);
        return err;
    }
    *out = w;
    return 0;
}

void bench_world_free(struct bench_world *w)
{
    if (!w)
        return;
    svq_relay_free(w->relay);
    svq_log_unref(w->log);
    if (w->log_bits)
        munmap(w->log_bits, w->log_size);
    if (w->shadow_memory)
        munmap(w->shadow_memory, w->shadow_size);
    if (w->map)
        svq_map_unref(w->map);
    free(w->driver);
    free(w->device);
    free(w);
}

/* ---- Traffic --------------------------------------------------------------------------------- */

static int broken(struct bench_world *w, const char *trouble)
{
    w->trouble = trouble;
    if (svq_relay_fault(w->relay, &trouble) != SVQ_SIDE_NONE)
        w->trouble = trouble;
    return -EPROTO;
}

/*
 * The relay's turn, and what it took. Return: it moved something and found nothing wrong; now and
 * then an event index comes round.
 */
static bool moved(struct bench_world *w, uint64_t *ticks)
{
    unsigned result;

    if (w->config.hand) {
        result = bench_hand_poll(w->config.hand, w->relay, ticks);
    } else {
        uint64_t start = bench_ticks();

        result = svq_relay_poll(w->relay);
        *ticks = bench_ticks() - start;
    }
    return (result & (SVQ_RELAY_BUSY | SVQ_RELAY_FAULT)) == SVQ_RELAY_BUSY;
}

/* One batch there and back; the relay's ticks in both directions, the clock's own included. */
static int relay_batch(struct bench_world *w, unsigned batch, uint64_t *forward, uint64_t *back)
{
    w->driver->offer(w->driver, batch);
    if (!moved(w, forward))
        return broken(w, "the relay took nothing");
    if (w->device->serve(w->device, w->config.reverse) != (int)batch)
        return broken(w, "the back-end did not find the batch that the guest offered");
    if (!moved(w, back))
        return broken(w, "the relay returned nothing");
    if (w->driver->reap(w->driver) != (int)batch)
        return broken(w, "the guest did not find the batch that the back-end used");
    return 0;
}

unsigned bench_world_lap_buffers(const struct bench_world *w, unsigned batch)
{
    return (w->chains + batch - 1) / batch * batch;
}

int bench_world_lap(struct bench_world *w, unsigned batch)
{
    unsigned left = bench_world_lap_buffers(w, batch);
    uint64_t forward, back;
    int err = 0;

    /* As if the log had just been harvested. */
    if (w->log_bits)
        memset(w->log_bits, 0, w->log_size);
    for (; left && !err; left -= batch)
        err = relay_batch(w, batch, &forward, &back);
    return err;
}

int bench_world_slot(struct bench_world *w, unsigned batch, uint64_t slot_ns,
                     const struct bench_clock *clock, struct bench_sample *sample)
{
    uint64_t ticks = (uint64_t)((double)slot_ns * clock->ticks_per_ns);
    uint64_t forward, back, start;
    int err = bench_world_lap(w, batch);

    if (err)
        return err;
    *sample = (struct bench_sample){0};
    start = bench_ticks();
    do {
        err = relay_batch(w, batch, &forward, &back);
        if (err)
            return err;
        sample->forward += (double)forward - clock->overhead;
        sample->back += (double)back - clock->overhead;
        sample->buffers += batch;
    } while (bench_ticks() - start < ticks);
    return 0;
}

const char *bench_world_trouble(const struct bench_world *w)
{
    return w->trouble;
}
