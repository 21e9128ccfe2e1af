/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A memory map. Mappings are objects of their own, shared between successive maps, so that a new
 * memory table (hot-plug) maps only what is new and pointers into what stays keep their value.
 */
#include <shadowvq/mem.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct mapping {
    _Atomic unsigned refs;
    int fd;
    dev_t dev; /* which file: two fds may name the same one */
    ino_t ino;
    void *mapping;
    size_t mapped;
    uint8_t *host; /* the region's first byte */
};

struct entry {
    struct svq_region region;
    struct mapping *mapping;
};

struct svq_map {
    _Atomic unsigned refs;
    size_t count;
    struct entry entries[];
};

static void mapping_unref(struct mapping *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    munmap(m->mapping, m->mapped);
    close(m->fd);
    free(m);
}

/* Return: NULL with errno set when it cannot be mapped. */
static struct mapping *mapping_new(const struct svq_region *r, const struct stat *st)
{
    uint64_t start = r->offset & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);
    struct mapping *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    atomic_init(&m->refs, 1);
    m->dev = st->st_dev;
    m->ino = st->st_ino;
    m->mapped = r->offset + r->size - start;
    m->fd = fcntl(r->fd, F_DUPFD_CLOEXEC, 0);
    if (m->fd < 0) {
        free(m);
        return NULL;
    }
    m->mapping = mmap(NULL, m->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd,
                      (off_t)start);
    if (m->mapping == MAP_FAILED) {
        int saved = errno;

        close(m->fd);
        free(m);
        errno = saved;
        return NULL;
    }
    m->host = (uint8_t *)m->mapping + (r->offset - start);
    return m;
}

/* The mapping of the same piece of the same file in an older map. */
static struct mapping *find_mapping(const struct svq_map *base, const struct svq_region *r,
                                    const struct stat *st)
{
    for (size_t i = 0; base && i < base->count; i++) {
        const struct entry *e = &base->entries[i];

        if (e->region.gpa == r->gpa && e->region.size == r->size && e->region.uaddr == r->uaddr &&
            e->region.offset == r->offset && e->mapping->dev == st->st_dev &&
            e->mapping->ino == st->st_ino)
            return e->mapping;
    }
    return NULL;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b ? b - a < a_size : a - b < b_size;
}

static int check_region(const struct svq_map *map, const struct svq_region *r, struct stat *st)
{
    uint64_t end;

    /* A range ends at most at the top of the address space: its last byte must not wrap. */
    if (!r->size || __builtin_add_overflow(r->gpa, r->size - 1, &end) ||
        __builtin_add_overflow(r->uaddr, r->size - 1, &end) ||
        __builtin_add_overflow(r->offset, r->size, &end))
        return -EINVAL;
    for (size_t i = 0; i < map->count; i++) {
        const struct svq_region *o = &map->entries[i].region;

        if (overlap(r->gpa, r->size, o->gpa, o->size) ||
            overlap(r->uaddr, r->size, o->uaddr, o->size))
            return -EINVAL;
    }
    if (fstat(r->fd, st) < 0)
        return -errno;
    /* Device files have no size; a file shorter than its region would be a SIGBUS later. */
    if (S_ISREG(st->st_mode) && end > (uint64_t)st->st_size)
        return -ERANGE;
    return 0;
}

static int add_region(struct svq_map *map, const struct svq_region *r, const struct svq_map *base)
{
    struct entry *e = &map->entries[map->count];
    struct stat st;
    int err = check_region(map, r, &st);

    if (err)
        return err;
    e->region = *r;
    e->mapping = find_mapping(base, r, &st);
    if (e->mapping)
        atomic_fetch_add_explicit(&e->mapping->refs, 1, memory_order_relaxed);
    else
        e->mapping = mapping_new(r, &st);
    if (!e->mapping)
        return -errno;
    e->region.fd = e->mapping->fd;
    map->count++;
    return 0;
}

int svq_map_new(const struct svq_region *regions, size_t count, const struct svq_map *base,
                struct svq_map **out)
{
    struct svq_map *map = calloc(1, sizeof(*map) + count * sizeof(map->entries[0]));

    if (!map)
        return -ENOMEM;
    atomic_init(&map->refs, 1);
    for (size_t i = 0; i < count; i++) {
        int err = add_region(map, &regions[i], base);

        if (err) {
            svq_map_unref(map);
            return err;
        }
    }
    *out = map;
    return 0;
}

struct svq_map *svq_map_ref(struct svq_map *map)
{
    atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
    return map;
}

void svq_map_unref(struct svq_map *map)
{
    if (!map || atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < map->count; i++)
        mapping_unref(map->entries[i].mapping);
    free(map);
}

size_t svq_map_count(const struct svq_map *map)
{
    return map->count;
}

const struct svq_region *svq_map_region(const struct svq_map *map, size_t i)
{
    return &map->entries[i].region;
}

bool svq_map_same_file(const struct svq_map *map, size_t a, size_t b)
{
    const struct mapping *x = map->entries[a].mapping, *y = map->entries[b].mapping;

    return x->dev == y->dev && x->ino == y->ino;
}

/* Is all of [addr, addr + len) inside [start, start + size)? No sum that could wrap. */
static bool inside(uint64_t addr, uint64_t len, uint64_t start, uint64_t size)
{
    return addr >= start && addr - start < size && len <= size - (addr - start);
}

void *svq_map_gpa(const struct svq_map *map, uint64_t gpa, uint64_t len)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct entry *e = &map->entries[i];

        if (inside(gpa, len, e->region.gpa, e->region.size))
            return e->mapping->host + (gpa - e->region.gpa);
    }
    return NULL;
}

void *svq_map_uaddr(const struct svq_map *map, uint64_t uaddr, uint64_t len)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct entry *e = &map->entries[i];

        if (inside(uaddr, len, e->region.uaddr, e->region.size))
            return e->mapping->host + (uaddr - e->region.uaddr);
    }
    return NULL;
}

bool svq_map_uaddr_to_gpa(const struct svq_map *map, uint64_t uaddr, uint64_t len, uint64_t *gpa)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct svq_region *r = &map->entries[i].region;

        if (!inside(uaddr, len, r->uaddr, r->size))
            continue;
        *gpa = r->gpa + (uaddr - r->uaddr);
        return true;
    }
    return false;
}

/* How many bytes from gpa on lie in one region; 0: none. */
static uint64_t run_at(const struct svq_map *map, uint64_t gpa, unsigned *hint)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct svq_region *r = &map->entries[i].region;

        if (gpa >= r->gpa && gpa - r->gpa < r->size) {
            *hint = i;
            return r->size - (gpa - r->gpa);
        }
    }
    return 0;
}

bool svq_map_holds(const struct svq_map *map, uint64_t gpa, uint64_t len, unsigned *hint)
{
    const struct svq_region *r;

    if (*hint < map->count) {
        r = &map->entries[*hint].region;
        if (inside(gpa, len, r->gpa, r->size))
            return true;
    }
    for (;;) {
        uint64_t run = run_at(map, gpa, hint);

        if (!run)
            return false;
        if (len <= run)
            return true;
        len -= run;
        if (__builtin_add_overflow(gpa, run, &gpa))
            return false;
    }
}
