/* SPDX-License-Identifier: BSD-3-Clause */
#include "precopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

#define PAGES_PER_NAP 256

struct sim_precopy {
    struct sim_guest *guest;
    struct sim_memory *image;
    struct sim_memory *blind;
    size_t words;
    uint64_t *cpu;     /* collected, not yet sent */
    uint64_t *device;  /* likewise */
    uint64_t *scratch; /* one collection of either */
};

static void set_all_pages(struct sim_precopy *precopy)
{
    const struct sim_memory *mem = precopy->guest->mem;

    for (unsigned i = 0; i < mem->count; i++) {
        uint64_t page = mem->regions[i].gpa / SIM_PAGE;
        uint64_t end = page + mem->regions[i].size / SIM_PAGE;

        for (; page < end; page++)
            precopy->cpu[page / 64] |= UINT64_C(1) << (page % 64);
    }
}

int sim_precopy_new(struct sim_guest *guest, struct sim_precopy **out)
{
    struct sim_precopy *precopy = calloc(1, sizeof(*precopy));
    int ret = -ENOMEM;

    if (!precopy)
        return ret;
    precopy->guest = guest;
    precopy->words = guest->mem->cpu->words;
    precopy->cpu = calloc(precopy->words, sizeof(uint64_t));
    precopy->device = calloc(precopy->words, sizeof(uint64_t));
    precopy->scratch = calloc(precopy->words, sizeof(uint64_t));
    if (precopy->cpu && precopy->device && precopy->scratch)
        ret = sim_memory_clone(guest->mem, &precopy->image);
    if (!ret)
        ret = sim_memory_clone(guest->mem, &precopy->blind);
    if (ret) {
        sim_precopy_free(precopy);
        return ret;
    }
    set_all_pages(precopy);
    *out = precopy;
    return 0;
}

void sim_precopy_free(struct sim_precopy *precopy)
{
    if (!precopy)
        return;
    sim_memory_free(precopy->image);
    sim_memory_free(precopy->blind);
    free(precopy->cpu);
    free(precopy->device);
    free(precopy->scratch);
    free(precopy);
}

/* Fetch one bitmap into what waits to be sent. Return: pages that it held. */
static uint64_t collect(struct sim_precopy *precopy, struct sim_bitmap *from, uint64_t *into)
{
    uint64_t pages = 0;

    memset(precopy->scratch, 0, precopy->words * sizeof(uint64_t));
    sim_bitmap_harvest(from, precopy->scratch, precopy->words);
    for (size_t i = 0; i < precopy->words; i++) {
        pages += (unsigned)__builtin_popcountll(precopy->scratch[i]);
        into[i] |= precopy->scratch[i];
    }
    return pages;
}

/* Take out of the device's pages those that do not exist. Return: how many. */
static uint64_t remove_stray(struct sim_precopy *precopy, size_t word)
{
    uint64_t stray = 0;

    for (uint64_t bits = precopy->device[word]; bits; bits &= bits - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(bits);

        if (sim_memory_has_page(precopy->guest->mem, word * 64 + bit))
            continue;
        precopy->device[word] &= ~(UINT64_C(1) << bit);
        stray++;
    }
    return stray;
}

void sim_precopy_collect(struct sim_precopy *precopy, struct sim_precopy_count *count)
{
    memset(count, 0, sizeof(*count));
    count->cpu = collect(precopy, precopy->guest->mem->cpu, precopy->cpu);
    if (precopy->guest->log)
        count->device = collect(precopy, precopy->guest->log, precopy->device);
    for (size_t i = 0; i < precopy->words; i++) {
        uint64_t cpu = precopy->cpu[i];

        if (precopy->device[i])
            count->stray += remove_stray(precopy, i);
        count->pages += (unsigned)__builtin_popcountll(cpu | precopy->device[i]);
        count->device_only += (unsigned)__builtin_popcountll(precopy->device[i] & ~cpu);
    }
}

static void nap_until(uint64_t when)
{
    uint64_t now = sim_now();
    struct timespec ts;

    if (when <= now)
        return;
    ts.tv_sec = (time_t)((when - now) / 1000000000u);
    ts.tv_nsec = (long)((when - now) % 1000000000u);
    nanosleep(&ts, NULL);
}

void sim_precopy_send(struct sim_precopy *precopy, uint64_t bytes_per_second)
{
    const struct sim_memory *mem = precopy->guest->mem;
    uint64_t start = sim_now();
    uint64_t sent = 0;

    for (size_t i = 0; i < precopy->words; i++) {
        uint64_t cpu = precopy->cpu[i];
        uint64_t bits = cpu | precopy->device[i];

        precopy->cpu[i] = precopy->device[i] = 0;
        for (; bits; bits &= bits - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(bits);
            uint64_t page = i * 64 + bit;

            sim_memory_copy_page(precopy->image, mem, page);
            if (cpu & (UINT64_C(1) << bit))
                sim_memory_copy_page(precopy->blind, mem, page);
            if (bytes_per_second && ++sent % PAGES_PER_NAP == 0)
                nap_until(start + sent * SIM_PAGE * 1000000000u / bytes_per_second);
        }
    }
}

const struct sim_memory *sim_precopy_image(const struct sim_precopy *precopy)
{
    return precopy->image;
}

const struct sim_memory *sim_precopy_blind(const struct sim_precopy *precopy)
{
    return precopy->blind;
}

struct sim_memory *sim_precopy_take_image(struct sim_precopy *precopy)
{
    struct sim_memory *image = precopy->image;

    precopy->image = NULL;
    return image;
}
