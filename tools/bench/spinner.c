/* SPDX-License-Identifier: BSD-3-Clause */
#include "spinner.h"
#include "clock.h"

#include <stddef.h>

static unsigned turn(void *opaque)
{
    (void)opaque;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    return 0;
}

/* There is nothing to it, so all may share it. */
static const struct bench_party party = {.turn = turn};

int spinner_set(struct spinner *spinner, int cpu, bool on)
{
    int ret = 0;

    if (on == spinner->on)
        return 0;
    if (!spinner->loop)
        ret = bench_loop_new(cpu, &spinner->loop);
    if (ret)
        return ret;
    if (on)
        ret = bench_loop_add(spinner->loop, &party);
    else
        bench_loop_remove(spinner->loop, &party);
    spinner->on = on;
    return ret;
}

void spinner_release(struct spinner *spinner)
{
    bench_loop_free(spinner->loop);
    *spinner = (struct spinner){0};
}

unsigned spins_of_ns(unsigned ns)
{
    const unsigned many = 1000000;
    uint64_t best = UINT64_MAX;

    if (!ns)
        return 0;
    for (unsigned i = 0; i < 10; i++) {
        uint64_t start = bench_now_ns(), took;

        spin(many);
        took = bench_now_ns() - start;
        best = took < best ? took : best;
    }
    return (unsigned)((double)ns * many / (double)best + 0.5);
}
