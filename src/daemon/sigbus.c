/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/sigbus.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char complaint[] =
    "svqd: error: a peer truncated memory that it shares; the lost page reads as zeros\n";

static uintptr_t page_size;

/* Async-signal-safe: mmap and write are plain system calls. */
static void on_sigbus(int signo, siginfo_t *info, void *context)
{
    void *page = (void *)((uintptr_t)info->si_addr & ~(page_size - 1));

    (void)context;
    if (info->si_code == BUS_ADRERR &&
        mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) != MAP_FAILED) {
        /* Nothing can be done about a failed write here. */
        if (write(STDERR_FILENO, complaint, strlen(complaint)) < 0)
            return;
        return;
    }
    /* A real hardware error, or a page that cannot be replaced: die of it as without us. */
    signal(signo, SIG_DFL);
}

void svq_sigbus_guard(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigaction(SIGBUS, &action, NULL);
}
