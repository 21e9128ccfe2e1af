/* SPDX-License-Identifier: BSD-3-Clause */
#include "disk_model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS (SIM_SECTOR / sizeof(uint64_t))
#define STEP  UINT64_C(0x9e3779b97f4a7c15)

int sim_disk_new(uint64_t sectors, uint64_t seed, struct sim_disk **out)
{
    struct sim_disk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return -ENOMEM;
    disk->sectors = sectors;
    disk->seed = seed;
    disk->generation = calloc(sectors, sizeof(*disk->generation));
    disk->users = calloc(sectors, sizeof(*disk->users));
    if (!disk->generation || !disk->users) {
        sim_disk_free(disk);
        return -ENOMEM;
    }
    *out = disk;
    return 0;
}

void sim_disk_free(struct sim_disk *disk)
{
    if (!disk)
        return;
    free(disk->generation);
    free(disk->users);
    free(disk);
}

bool sim_disk_take(struct sim_disk *disk, uint64_t sector, uint64_t count, bool write)
{
    int16_t *users = disk->users + sector;

    for (uint64_t i = 0; i < count; i++) {
        if (write ? users[i] != 0 : users[i] < 0)
            return false;
    }
    for (uint64_t i = 0; i < count; i++)
        users[i] = (int16_t)(write ? -1 : users[i] + 1);
    return true;
}

void sim_disk_give(struct sim_disk *disk, uint64_t sector, uint64_t count, bool write, bool done)
{
    for (uint64_t i = sector; i < sector + count; i++) {
        disk->users[i] = (int16_t)(write ? 0 : disk->users[i] - 1);
        if (write && done)
            disk->generation[i]++;
    }
}

/* First word of a sector; each further one is STEP more. */
static uint64_t first_word(const struct sim_disk *disk, uint64_t sector, uint32_t generation)
{
    uint64_t x = (disk->seed ^ (sector << 24)) + generation * STEP;

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

void sim_disk_fill(const struct sim_disk *disk, uint64_t sector, uint64_t count, void *data)
{
    _Atomic uint64_t *words = data;

    for (uint64_t s = 0; s < count; s++, words += WORDS) {
        uint64_t word = first_word(disk, sector + s, disk->generation[sector + s] + 1);

        for (size_t i = 0; i < WORDS; i++, word += STEP)
            atomic_store_explicit(&words[i], word, memory_order_relaxed);
    }
}

/* How many words of the sector are as they should be. */
static size_t words_right(const struct sim_disk *disk, uint64_t sector, uint32_t generation,
                          const uint64_t *words)
{
    uint64_t word = generation ? first_word(disk, sector, generation) : 0;
    uint64_t step = generation ? STEP : 0;
    size_t right = 0;

    for (size_t i = 0; i < WORDS; i++, word += step)
        right += words[i] == word;
    return right;
}

static void explain(const struct sim_disk *disk, uint64_t sector, const uint64_t *words, char *why,
                    size_t size)
{
    uint32_t generation = disk->generation[sector];
    int len = snprintf(why, size, "sector %" PRIu64 ", generation %u: %zu of %zu words are right",
                       sector, generation, words_right(disk, sector, generation, words), WORDS);

    if (len < 0 || (size_t)len >= size)
        return;
    for (uint32_t older = 0; older < generation; older++) {
        if (words_right(disk, sector, older, words) == WORDS) {
            snprintf(why + len, size - (size_t)len, "; it is stale: generation %u", older);
            return;
        }
    }
    for (uint64_t other = 0; other < disk->sectors; other++) {
        if (disk->generation[other] &&
            words_right(disk, other, disk->generation[other], words) == WORDS) {
            snprintf(why + len, size - (size_t)len, "; it is sector %" PRIu64, other);
            return;
        }
    }
}

bool sim_disk_check(const struct sim_disk *disk, uint64_t sector, uint64_t count, const void *data,
                    char *why, size_t why_size)
{
    const uint64_t *words = data;

    for (uint64_t s = sector; s < sector + count; s++, words += WORDS) {
        if (words_right(disk, s, disk->generation[s], words) == WORDS)
            continue;
        explain(disk, s, words, why, why_size);
        return false;
    }
    return true;
}
