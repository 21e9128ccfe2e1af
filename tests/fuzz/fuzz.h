/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the fuzz targets share: a reader of the input's bytes, and the seeds that each target makes
 * up itself. A target is libFuzzer's with clang and -Dfuzzing=true; otherwise standalone.c runs it
 * over seeds and random changes of them.
 */
#ifndef SVQ_TESTS_FUZZ_H
#define SVQ_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FUZZ_MAX 4608u /* bytes of input */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Write the i-th seed. Return: its size, 0 when there are no more. */
size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX]);

/* A property that holds for every input. */
#define fuzz_check(condition) fuzz_check_(condition, #condition, __FILE__, __LINE__)
void fuzz_check_(int holds, const char *what, const char *file, int line);

struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

/* Zeros after the end. */
static inline void fuzz_bytes(struct fuzz_input *in, void *out, size_t len)
{
    size_t have = len < in->size ? len : in->size;

    memset(out, 0, len);
    if (have)
        memcpy(out, in->data, have);
    in->data += have;
    in->size -= have;
}

static inline uint64_t fuzz_number(struct fuzz_input *in, size_t bytes)
{
    uint64_t value = 0;

    fuzz_bytes(in, &value, bytes);
    return value;
}

#endif
