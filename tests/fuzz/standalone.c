/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Without libFuzzer: run a target over its seeds and over random changes of them, the same ones
 * every time; or over the files on the command line.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "fuzz.h"
#include "kit/rng.h"

static uint8_t input[FUZZ_MAX];

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file) {
        perror(path);
        return 1;
    }
    size = fread(input, 1, sizeof(input), file);
    fclose(file);
    LLVMFuzzerTestOneInput(input, size);
    return 0;
}

/* A few bytes changed, a piece copied, cut or inserted. */
static size_t mutate(struct kit_rng *rng, size_t size)
{
    unsigned changes = kit_between(rng, 0, 8);

    while (changes--) {
        size_t at = kit_below(rng, (uint32_t)size + 1), from = kit_below(rng, (uint32_t)size + 1);
        size_t len = kit_below(rng, 32);

        switch (kit_below(rng, 5)) {
        case 0: /* a byte */
            if (at < size)
                input[at] = (uint8_t)kit_rand(rng);
            break;
        case 1: /* a bit */
            if (at < size)
                input[at] ^= (uint8_t)(1u << kit_below(rng, 8));
            break;
        case 2: /* an interesting number */
            if (at + 4 <= size)
                memset(input + at, kit_percent(rng, 50) ? 0xff : 0, kit_between(rng, 1, 4));
            break;
        case 3: /* an insertion of what is elsewhere */
            if (size + len <= FUZZ_MAX && from + len <= size) {
                uint8_t piece[32];

                memcpy(piece, input + from, len);
                memmove(input + at + len, input + at, size - at);
                memcpy(input + at, piece, len);
                size += len;
            }
            break;
        default: /* a cut */
            if (at + len <= size) {
                memmove(input + at, input + at + len, size - at - len);
                size -= len;
            }
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    uint64_t runs = 100000, seed = 1;
    struct kit_rng rng;
    unsigned seeds = 0;
    int files = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "-runs=", 6))
            runs = strtoull(argv[i] + 6, NULL, 0);
        else if (!strncmp(argv[i], "-seed=", 6))
            seed = strtoull(argv[i] + 6, NULL, 0);
        else if (argv[i][0] != '-') {
            failed |= run_file(argv[i]);
            files++;
        }
    }
    if (files)
        return failed;
    while (fuzz_seed(seeds, input) > 0)
        seeds++;
    for (uint64_t run = 0; run < runs; run++) {
        size_t size;

        rng.state = seed + run;
        size = fuzz_seed((unsigned)(run % seeds), input);
        if (run >= seeds)
            size = mutate(&rng, size);
        if (kit_percent(&rng, 2))
            for (size = 0; size < 512; size++)
                input[size] = (uint8_t)kit_rand(&rng);
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%s: %" PRIu64 " inputs from %u seeds; all right\n", argv[0], runs, seeds);
    return 0;
}
