/*
 * churn: keeps a disk or a piece of memory changing and knows what must be in it.
 *
 *   churn disk DEVICE FIRST-MIB MIB THREADS [SECTORS]
 *                                            random O_DIRECT reads and writes in that part of it,
 *                                            every thread in a share of its own, of up to SECTORS
 *                                            at a time; at the end /tmp/generations says how often
 *                                            each sector was written
 *   churn hold DEVICE FIRST-MIB MIB PER-MS   reads random blocks of that part into random places of
 *                                            MIB of memory, PER-MS of them each millisecond, and
 *                                            looks at the memory only at the end: whatever is in
 *                                            it, a device put there
 *   churn memory MIB PER-MS                  rewrites pages of its memory, PER-MS each millisecond
 *
 * Every sector (block, page) holds a pattern made of its number and a generation that grows with
 * each write; what is read is compared word by word with what was last written there. Runs until
 * SIGTERM, then reads everything once more, prints "churn: ok ..." and exits 0. Any difference or
 * error ends it at once with status 1 and a line "churn: BAD ...". A line "progress WRITTEN READ"
 * (bytes) goes to stdout five times a second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SECTOR      512u
#define PAGE        4096u
#define BLOCK       16384
#define MIB         ((size_t)1 << 20)
#define MAX_SECTORS 512u /* 256 KiB: a chain of up to 65 data buffers */

static atomic_bool stop;
static _Atomic uint64_t written, verified; /* bytes */
static _Atomic uint64_t writes, reads;     /* requests of "disk" */
static unsigned int max_sectors = MAX_SECTORS;

struct part {
    pthread_t thread;
    int fd;
    unsigned int cpu;
    uint64_t first; /* sector */
    uint64_t count;
    uint32_t *generation; /* 0: never written by us, contents unknown */
    uint64_t random;
};

static void bad(const char *what, uint64_t where, uint64_t want, uint64_t got)
{
    printf("churn: BAD %s at %llu: want %016llx, got %016llx\n", what, (unsigned long long)where,
           (unsigned long long)want, (unsigned long long)got);
    fflush(stdout);
    _exit(1);
}

static void on_signal(int sig)
{
    (void)sig;
    atomic_store(&stop, true);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static uint64_t word(uint64_t number, uint32_t generation, size_t i)
{
    uint64_t x = number * 0x9e3779b97f4a7c15u + generation * 0xc2b2ae3d27d4eb4fu + i;

    x ^= x >> 31;
    return x * 0xff51afd7ed558ccdu;
}

static void fill(uint64_t *p, size_t bytes, uint64_t number, uint32_t generation)
{
    for (size_t i = 0; i < bytes / 8; i++)
        p[i] = word(number, generation, i);
}

static void check(const char *what, const uint64_t *p, size_t bytes, uint64_t number,
                  uint32_t generation)
{
    for (size_t i = 0; i < bytes / 8; i++) {
        if (p[i] != word(number, generation, i))
            bad(what, number, word(number, generation, i), p[i]);
    }
}

static void write_sectors(struct part *part, char *buffer, uint64_t at, unsigned int n)
{
    for (unsigned int i = 0; i < n; i++) {
        uint64_t sector = at + i;
        fill((uint64_t *)(buffer + i * SECTOR), SECTOR, part->first + sector,
             ++part->generation[sector]);
    }
    ssize_t done = pwrite(part->fd, buffer, n * SECTOR, (part->first + at) * SECTOR);
    if (done != (ssize_t)(n * SECTOR))
        bad("write", part->first + at, n * SECTOR, done < 0 ? (uint64_t)-errno : (uint64_t)done);
    atomic_fetch_add(&written, n * SECTOR);
    atomic_fetch_add(&writes, 1);
}

static void read_sectors(struct part *part, char *buffer, uint64_t at, unsigned int n)
{
    memset(buffer, 0x5a, n * SECTOR);
    ssize_t done = pread(part->fd, buffer, n * SECTOR, (part->first + at) * SECTOR);
    if (done != (ssize_t)(n * SECTOR))
        bad("read", part->first + at, n * SECTOR, done < 0 ? (uint64_t)-errno : (uint64_t)done);
    for (unsigned int i = 0; i < n; i++) {
        if (part->generation[at + i])
            check("sector", (uint64_t *)(buffer + i * SECTOR), SECTOR, part->first + at + i,
                  part->generation[at + i]);
    }
    atomic_fetch_add(&verified, n * SECTOR);
    atomic_fetch_add(&reads, 1);
}

static void *memory_of(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (memory == MAP_FAILED)
        bad("memory", 0, bytes, errno);
    return memory;
}

static void *churn_part(void *arg)
{
    struct part *part = arg;
    char *buffer = memory_of(2 * MAX_SECTORS * SECTOR);
    cpu_set_t set;

    /* One request queue per CPU: staying on one keeps all queues busy. */
    CPU_ZERO(&set);
    CPU_SET(part->cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    while (!atomic_load(&stop)) {
        static const unsigned int limits[] = {8, 8, 64, MAX_SECTORS};
        uint64_t r = next_random(&part->random);
        unsigned int limit = limits[r & 3] < max_sectors ? limits[r & 3] : max_sectors;
        unsigned int n = 1 + (r >> 8) % limit;
        uint64_t at = (r >> 20) % (part->count - n);
        /* Not always from a page's start: the chain's first buffer is then a short one. */
        char *p = buffer + (r >> 4 & 7) * SECTOR;

        if ((r >> 50 & 63) == 0 && fdatasync(part->fd))
            bad("flush", 0, 0, errno);
        if (r >> 60 & 1)
            write_sectors(part, p, at, n);
        else
            read_sectors(part, p, at, n);
    }
    for (uint64_t at = 0; at < part->count; at += MAX_SECTORS) {
        uint64_t left = part->count - at;
        read_sectors(part, buffer, at, left < MAX_SECTORS ? left : MAX_SECTORS);
    }
    return NULL;
}

static void say_progress(void)
{
    printf("progress %llu %llu\n", (unsigned long long)atomic_load(&written),
           (unsigned long long)atomic_load(&verified));
    fflush(stdout);
}

static void progress(void)
{
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};

    say_progress();
    nanosleep(&pause, NULL);
}

/* The pause of the modes that pace themselves. */
static void tick(void)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    static unsigned int ticks;

    if (ticks++ % 200 == 0)
        say_progress();
    nanosleep(&pause, NULL);
}

static int open_device(const char *device)
{
    int fd = open(device, O_RDWR | O_DIRECT);

    if (fd < 0)
        bad("open", 0, 0, errno);
    return fd;
}

/* What the disk must hold, for whoever wants to work it out: a 32-bit number for each sector. */
static void write_generations(const struct part *parts, unsigned int n)
{
    FILE *file = fopen("/tmp/generations", "w");

    for (unsigned int i = 0; file && i < n; i++)
        fwrite(parts[i].generation, sizeof(*parts[i].generation), parts[i].count, file);
    if (!file || ferror(file) || fclose(file))
        bad("generations", 0, 0, errno);
}

static void churn_disk(const char *device, uint64_t first_mib, uint64_t mib, unsigned int threads)
{
    struct part *parts = calloc(threads, sizeof(*parts));
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int fd = open_device(device);

    for (unsigned int i = 0; i < threads; i++) {
        struct part *part = &parts[i];
        part->fd = fd;
        part->cpu = i % cpus;
        part->count = mib * (MIB / SECTOR) / threads;
        part->first = first_mib * (MIB / SECTOR) + i * part->count;
        part->generation = calloc(part->count, sizeof(*part->generation));
        part->random = ((uint64_t)time(NULL) << 20) + 0x9e3779b97f4a7c15u * (i + 1);
        pthread_create(&part->thread, NULL, churn_part, part);
    }
    while (!atomic_load(&stop))
        progress();
    for (unsigned int i = 0; i < threads; i++)
        pthread_join(parts[i].thread, NULL);
    if (fsync(fd))
        bad("flush", 0, 0, errno);
    write_generations(parts, threads);
}

static void read_block(int fd, char *to, off_t first, size_t block)
{
    if (pread(fd, to, BLOCK, first + block * BLOCK) != BLOCK)
        bad("read", block, BLOCK, errno);
}

static void churn_hold(const char *device, uint64_t first_mib, uint64_t mib, unsigned int per_ms)
{
    size_t blocks = mib * MIB / BLOCK;
    char *memory = memory_of(blocks * BLOCK);
    uint32_t *holds = calloc(blocks, sizeof(*holds));
    off_t first = first_mib * MIB;
    int fd = open_device(device);
    uint64_t random = 0xfedcba987654321u;

    for (size_t i = 0; i < blocks; i++) {
        fill((uint64_t *)memory, BLOCK, i, 1);
        if (pwrite(fd, memory, BLOCK, first + i * BLOCK) != BLOCK)
            bad("write", i, BLOCK, errno);
    }
    for (size_t i = 0; i < blocks; i++) {
        read_block(fd, memory + i * BLOCK, first, i);
        holds[i] = i;
    }
    while (!atomic_load(&stop)) {
        for (unsigned int n = 0; n < per_ms; n++) {
            uint64_t r = next_random(&random);
            size_t i = r % blocks;
            holds[i] = (r >> 32) % blocks;
            read_block(fd, memory + i * BLOCK, first, holds[i]);
            atomic_fetch_add(&written, BLOCK);
        }
        tick();
    }
    for (size_t i = 0; i < blocks; i++) {
        check("held block", (uint64_t *)(memory + i * BLOCK), BLOCK, holds[i], 1);
        atomic_fetch_add(&verified, BLOCK);
    }
}

static void churn_memory(size_t mib, unsigned int per_ms)
{
    size_t pages = mib * MIB / PAGE;
    char *memory = memory_of(pages * PAGE);
    uint32_t *generation = calloc(pages, sizeof(*generation));
    uint64_t random = 0x123456789abcdefu;

    for (size_t i = 0; i < pages; i++)
        fill((uint64_t *)(memory + i * PAGE), PAGE, i, 0);
    while (!atomic_load(&stop)) {
        for (unsigned int n = 0; n < per_ms; n++) {
            size_t i = next_random(&random) % pages;
            uint64_t *p = (uint64_t *)(memory + i * PAGE);
            check("page", p, PAGE, i, generation[i]);
            fill(p, PAGE, i, ++generation[i]);
            atomic_fetch_add(&written, PAGE);
        }
        tick();
    }
    for (size_t i = 0; i < pages; i++) {
        check("page", (uint64_t *)(memory + i * PAGE), PAGE, i, generation[i]);
        atomic_fetch_add(&verified, PAGE);
    }
}

int main(int argc, char **argv)
{
    signal(SIGTERM, on_signal);
    if (argc >= 6 && argc <= 7 && strcmp(argv[1], "disk") == 0) {
        if (argc == 7 && atoi(argv[6]) > 0 && atoi(argv[6]) < (int)MAX_SECTORS)
            max_sectors = atoi(argv[6]);
        churn_disk(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    } else if (argc == 6 && strcmp(argv[1], "hold") == 0) {
        churn_hold(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    } else if (argc == 4 && strcmp(argv[1], "memory") == 0) {
        churn_memory(atoi(argv[2]), atoi(argv[3]));
    } else {
        fprintf(stderr, "usage: churn disk|hold|memory ..., see churn.c\n");
        return 2;
    }
    printf("churn: ok written %llu read %llu in %llu writes %llu reads\n",
           (unsigned long long)atomic_load(&written), (unsigned long long)atomic_load(&verified),
           (unsigned long long)atomic_load(&writes), (unsigned long long)atomic_load(&reads));
    return 0;
}
