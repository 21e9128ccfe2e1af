/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <shadowvq/mem.h>

#include "memory.h"

/* Front-ends map guest memory anywhere: keep it apart from the gpa so that mixing them up shows. */
#define UADDR_OF(gpa) ((gpa) + UINT64_C(0x7f0000000000))

void kit_require_(bool holds, const char *what, const char *file, int line)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: required: %s\n", file, line, what);
    abort();
}

int kit_file(uint64_t size)
{
    int fd = memfd_create("shadowvq-test", MFD_CLOEXEC);

    kit_require(fd >= 0);
    kit_require(ftruncate(fd, (off_t)size) == 0);
    return fd;
}

unsigned kit_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    kit_require(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

uint64_t kit_cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void kit_memory_init(struct kit_memory *memory, uint64_t gpa, uint64_t size)
{
    struct svq_region region = {.gpa = gpa, .size = size, .uaddr = UADDR_OF(gpa)};

    region.fd = kit_file(size);
    memory->gpa = gpa;
    memory->size = size;
    memory->uaddr = region.uaddr;
    memory->fd = region.fd;
    kit_require(svq_map_new(&region, 1, NULL, &memory->map) == 0);
    memory->bytes = svq_map_gpa(memory->map, gpa, size);
    kit_require(memory->bytes != NULL);
}

void kit_memory_free(struct kit_memory *memory)
{
    svq_map_unref(memory->map);
    close(memory->fd);
}

void *kit_memory_at(const struct kit_memory *memory, uint64_t gpa, uint64_t len)
{
    kit_require(gpa >= memory->gpa);
    kit_require(gpa - memory->gpa <= memory->size);
    kit_require(len <= memory->size - (gpa - memory->gpa));
    return memory->bytes + (gpa - memory->gpa);
}

void kit_log_init(struct kit_log *log, uint64_t pages)
{
    log->size = (pages + 7) / 8;
    log->fd = kit_file(log->size);
    kit_require(svq_log_new(log->fd, log->size, 0, &log->log) == 0);
    log->bits = mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
    kit_require(log->bits != MAP_FAILED);
}

void kit_log_free(struct kit_log *log)
{
    svq_log_unref(log->log);
    munmap(log->bits, log->size);
    close(log->fd);
}

bool kit_log_test(const struct kit_log *log, uint64_t page)
{
    kit_require(page / 8 < log->size);
    return __atomic_load_n(&log->bits[page / 8], __ATOMIC_ACQUIRE) & (1u << (page % 8));
}

uint64_t kit_log_count(const struct kit_log *log)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < log->size; i++)
        count += (uint64_t)__builtin_popcount(log->bits[i]);
    return count;
}

void kit_log_clear(struct kit_log *log)
{
    for (uint64_t i = 0; i < log->size; i++)
        __atomic_store_n(&log->bits[i], 0, __ATOMIC_RELEASE);
}
