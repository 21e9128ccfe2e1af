/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight regions that anybody may have written: a part and a ring are made as they would be, and
 * then changed in places, before a relay begins and while it runs. Whatever it believes of it, a
 * reader of the specification finds the part in order afterwards.
 */
#include <errno.h>
#include <stdlib.h>

#include <shadowvq/inflight.h>

#include "fuzz.h"
#include "kit/region.h"

#define GPA    UINT64_C(0x10000)
#define DRIVER (GPA + 0x1000)
#define DEVICE (GPA + 0x2000)
#define TABLE  (GPA + 0x3000)
#define DATA   (GPA + 0x4000)
#define SIZE   UINT64_C(0x10000)
#define SHADOW (UINT64_C(1) << 44)

enum { NUM = 8, ENTRIES = 12, PART_WORDS = 64, CHANGES = 24 };

static struct {
    struct kit_memory memory;
    uint64_t part[PART_WORDS];
    uint64_t features[2];
    struct kit_ring guest, shadow;
    void *shadow_memory;
    bool may_share;
    struct svq_relay_tables tables;
    struct svq_relay *relay;
    struct kit_device *device;
} s;

static uint8_t *bytes_of_part(void)
{
    return (uint8_t *)s.part;
}

static void put16(size_t at, uint16_t value)
{
    memcpy(bytes_of_part() + at, &value, sizeof(value));
}

static void put64(size_t at, uint64_t value)
{
    memcpy(bytes_of_part() + at, &value, sizeof(value));
}

/* ---- A ring and its part --------------------------------------------------------------------- */

/* Chains of two descriptors from head 0, 2, 4 on, as many as `taken`. */
static void make_split(unsigned taken, uint16_t used)
{
    for (unsigned i = 0; i < NUM; i++)
        s.guest.split.desc[i] =
            (struct kit_desc){DATA + 64 * i, 64, i % 2 ? KIT_F_WRITE : KIT_F_NEXT, (i + 1) % NUM};
    memset(s.guest.split.avail, 0, kit_driver_bytes(SVQ_RING_SPLIT, NUM));
    memset(s.guest.split.used, 0, kit_device_bytes(SVQ_RING_SPLIT, NUM));
    s.guest.split.used->idx = used;
    s.guest.split.avail->idx = (uint16_t)(used + NUM / 2);
    for (unsigned i = 0; i < NUM; i++)
        s.guest.split.avail->ring[(used + i) % NUM] = (uint16_t)(2 * i % NUM);
    put16(14, used);
    for (unsigned i = 0; i < taken; i++) {
        bytes_of_part()[16 + 16 * 2 * i] = 1;
        put64(16 + 16 * 2 * i + 8, 100 + i);
    }
}

static void make_packed(unsigned taken, struct kit_place used)
{
    struct kit_place at = used;

    for (unsigned i = 0; i < NUM; i++) {
        uint16_t flags = (uint16_t)(kit_avail_flags(at.wrap) | (i % 2 ? KIT_P_WRITE : KIT_P_NEXT));

        s.guest.packed.desc[at.off] =
            (struct kit_pdesc){DATA + 64 * i, 64, (uint16_t)(i / 2), flags};
        kit_place_move(&at, NUM, 1);
    }
    kit_event_set(s.guest.packed.driver, 0, KIT_EVENT_ENABLE);
    for (unsigned i = 0; i < ENTRIES; i++)
        put16(32 + 32 * i + 2, (uint16_t)(i + 1));
    for (unsigned i = 0; i < 2 * taken; i++) {
        size_t entry = 32 + 32 * i;

        if (i % 2 == 0) {
            bytes_of_part()[entry] = 1;
            put16(entry + 4, (uint16_t)(i + 1));
            put16(entry + 6, 2);
            put64(entry + 8, 100 + i);
        }
        put16(entry + 16, (uint16_t)(i / 2));
        put16(entry + 18, i % 2 ? KIT_P_WRITE : KIT_P_NEXT);
        put16(entry + 20, 64);
        put64(entry + 24, DATA + 64 * i);
    }
    put16(12, (uint16_t)(2 * taken));
    put16(14, (uint16_t)(2 * taken));
    put16(16, used.off);
    put16(18, used.off);
    bytes_of_part()[20] = bytes_of_part()[21] = used.wrap;
}

static void make(struct fuzz_input *in)
{
    unsigned kind = (unsigned)fuzz_number(in, 1), more = (unsigned)fuzz_number(in, 1);
    unsigned taken = more % (NUM / 2 + 1);
    struct svq_relay_config config = {0};

    memset(&s.part, 0, sizeof(s.part));
    put16(8, 1);
    put16(10, ENTRIES);
    s.features[0] = (kind & 1 ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) |
                    (kind & 4 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
                    (kind & 8 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
    s.features[1] = (kind & 2 ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) |
                    (kind & 16 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
                    (kind & 32 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
    s.guest = kit_ring_in(&s.memory, svq_ring_format(s.features[0]), NUM, GPA, DRIVER, DEVICE);
    if (kind & 1)
        make_packed(taken, (struct kit_place){(uint16_t)((more >> 4) % NUM), more & 8});
    else
        make_split(taken, (uint16_t)(more << 8));
    s.shadow = kit_ring_alloc(svq_ring_format(s.features[1]), NUM, &s.shadow_memory);
    config.guest = (struct svq_relay_side){NUM, s.features[0], s.guest.at};
    config.backend = (struct svq_relay_side){NUM, s.features[1], s.shadow.at};
    s.may_share = kind & 64;
    s.tables = (struct svq_relay_tables){.addr = SHADOW, .size = svq_relay_tables_size(&config)};
    if (s.tables.size)
        kit_require(posix_memalign(&s.tables.host, 4096, s.tables.size) == 0);
}

/* Words, wherever: of the part or of the ring. Return: how many. */
static unsigned change(struct fuzz_input *in)
{
    unsigned count = (unsigned)fuzz_number(in, 1) % CHANGES;

    for (unsigned left = count; left; left--) {
        unsigned where = (unsigned)fuzz_number(in, 1), at = (unsigned)fuzz_number(in, 2);
        uint16_t value = (uint16_t)fuzz_number(in, 2);
        uint8_t *to = bytes_of_part() + at % (sizeof(s.part) - 1);

        if (where % 8 == 1)
            to = (uint8_t *)s.guest.at.desc + at % (kit_desc_bytes(NUM) - 1);
        else if (where % 8 == 2)
            to = (uint8_t *)s.guest.at.driver + at % (kit_driver_bytes(s.guest.format, NUM) - 1);
        else if (where % 8 == 3)
            to = (uint8_t *)s.guest.at.device + at % (kit_device_bytes(s.guest.format, NUM) - 1);
        if (where & 0x80)
            memcpy(to, &value, sizeof(value));
        else
            *to = (uint8_t)value;
    }
    return count;
}

/* ---- What holds ------------------------------------------------------------------------------ */

static void expect_order(unsigned in_flight)
{
    static struct kit_findings found;

    kit_region_look(&found, s.part, ENTRIES, &s.guest);
    /* It was not we who gave two chains one counter. */
    fuzz_check(!found.wrong || strcmp(found.wrong, "two requests have one counter") == 0);
    /* A guest that offers one head twice has it marked once. */
    fuzz_check(found.count == in_flight ||
               (s.guest.format == SVQ_RING_SPLIT && found.count < in_flight));
    fuzz_check(found.leaked == 0);
}

static bool start(bool intact)
{
    struct svq_relay_config config = {
        .guest = {NUM, s.features[0], s.guest.at},
        .backend = {NUM, s.features[1], s.shadow.at},
        .map = s.memory.map,
        .tables = s.tables,
        .inflight = s.part,
        .inflight_entries = ENTRIES,
        .may_share = s.may_share,
    };
    uint64_t before[PART_WORDS];
    struct svq_inflight_report report;
    int read;

    memcpy(before, s.part, sizeof(before));
    read = svq_inflight_read(s.part, s.guest.format, ENTRIES, NUM, &s.guest.at, &report);
    fuzz_check(read == 0 || (read == -EBADMSG && !intact));
    fuzz_check(svq_relay_new(&config, &s.relay) == read);
    if (read || !report.tracked) {
        fuzz_check(!read || memcmp(before, s.part, sizeof(before)) == 0);
        return read == 0;
    }
    expect_order(report.in_flight);
    fuzz_check(report.in_flight <= NUM);
    return true;
}

static void serve(struct fuzz_input *in)
{
    struct kit_buf bufs[64];
    uint16_t ids[2 * NUM];
    unsigned count = 0;

    while (count < 2 * NUM && s.device->ops->take(s.device, &ids[count], bufs, 64) > 0)
        count++;
    while (count && fuzz_number(in, 1) % 4)
        s.device->ops->complete(s.device, ids[--count], 1, 1);
    s.device->ops->publish(s.device);
}

static unsigned in_flight(void)
{
    struct svq_relay_state state;

    svq_relay_state(s.relay, &state);
    return state.in_flight;
}

static void run(struct fuzz_input *in)
{
    uint32_t base = s.shadow.format == SVQ_RING_PACKED ? SVQ_PACKED_START : 0;
    bool ours = true; /* nobody else has written it meanwhile */
    struct kit_ring ring = s.shadow;

    if (svq_relay_shares(s.relay))
        ring.at.desc = s.guest.at.desc;
    s.device = kit_device_new(s.memory.map, &ring, s.features[1], base);
    s.device->tables = s.tables;
    s.device->mixed = true;
    for (unsigned turn = 0; turn < 6; turn++) {
        unsigned bits = svq_relay_poll(s.relay);

        if (bits & SVQ_RELAY_FAULT)
            break;
        /* Nothing is left to be taken over. */
        if (ours && turn > 2 && !(bits & SVQ_RELAY_BUSY))
            expect_order(in_flight());
        serve(in);
        if (fuzz_number(in, 1) % 8 == 7) {
            change(in);
            ours = false;
        }
    }
    (void)svq_relay_arm(s.relay);
    svq_relay_detach(s.relay);
    kit_device_free(s.device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    if (!s.memory.map)
        kit_memory_init(&s.memory, GPA, SIZE);
    memset(s.memory.bytes, 0, SIZE);
    make(&in);
    s.relay = NULL;
    if (start(!change(&in)))
        run(&in);
    svq_relay_free(s.relay);
    free(s.shadow_memory);
    free(s.tables.host);
    s.tables.host = NULL;
    return 0;
}

/* Every pair of formats and chains in flight, without a change and with one. */
size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    if (i >= 128)
        return 0;
    memset(data, 3, 64);
    data[0] = (uint8_t)i;
    data[1] = (uint8_t)(i * 37);
    data[2] = i >= 64;
    data[3] = 0;
    data[4] = (uint8_t)(i * 11);
    data[5] = 0;
    return 64;
}
