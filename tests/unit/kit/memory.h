/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory and dirty logs for tests. Setting up aborts when the system refuses: no test means
 * anything then.
 */
#ifndef SVQ_TESTS_KIT_MEMORY_H
#define SVQ_TESTS_KIT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct svq_map;
struct svq_log;

/* Print where and why, and abort: for what is broken in the test itself. */
#define kit_require(condition) kit_require_(condition, #condition, __FILE__, __LINE__)
void kit_require_(bool holds, const char *what, const char *file, int line);

/* An unlinked file of so many bytes, all zero. */
int kit_file(uint64_t size);

/* How many file descriptors this process has open. */
unsigned kit_open_fds(void);

/* Processor time that this process has used. */
uint64_t kit_cpu_us(void);

/* One region of guest memory, seen by test and code under test at the same addresses. */
struct kit_memory {
    uint64_t gpa;
    uint64_t size;
    uint64_t uaddr;
    int fd;
    struct svq_map *map;
    uint8_t *bytes;
};

void kit_memory_init(struct kit_memory *memory, uint64_t gpa, uint64_t size);
void kit_memory_free(struct kit_memory *memory);

/* A pointer to [gpa, gpa + len), which must exist. */
void *kit_memory_at(const struct kit_memory *memory, uint64_t gpa, uint64_t len);

/* A dirty log for the first `pages` pages, and the VMM's view of it. */
struct kit_log {
    int fd;
    uint64_t size;
    struct svq_log *log;
    uint8_t *bits;
};

void kit_log_init(struct kit_log *log, uint64_t pages);
void kit_log_free(struct kit_log *log);
bool kit_log_test(const struct kit_log *log, uint64_t page);
/* How many pages are marked. */
uint64_t kit_log_count(const struct kit_log *log);
void kit_log_clear(struct kit_log *log);

#endif
