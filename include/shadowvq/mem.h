/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory: which addresses exist, where they are mapped here, and which pages were written.
 *
 * A map is immutable once built and reference-counted: whoever translates through it holds a
 * reference, so a new memory table never pulls memory away from work in progress.
 */
#ifndef SHADOWVQ_MEM_H
#define SHADOWVQ_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Memory map ------------------------------------------------------------------------- */

struct svq_map;

/* One region of guest memory, as SET_MEM_TABLE and ADD_MEM_REG describe it. */
struct svq_region {
    uint64_t gpa;    /* guest-physical address */
    uint64_t size;   /* bytes */
    uint64_t uaddr;  /* address in the front-end's process */
    uint64_t offset; /* bytes into the file where the region starts */
    int fd;          /* the file; the map duplicates it */
};

/**
 * svq_map_new() - build a map with one reference, mapping every region shared and read-write.
 * @base: an older map whose mappings are shared where a region is the same one, or NULL
 *
 * The fds stay the caller's. Any thread.
 *
 * Return: 0; -EINVAL for an empty, wrapping or overlapping region (by gpa or by uaddr);
 * -ERANGE when the file is shorter than the region says; or mmap's or dup's error.
 */
int svq_map_new(const struct svq_region *regions, size_t count, const struct svq_map *base,
                struct svq_map **out);

struct svq_map *svq_map_ref(struct svq_map *map);
void svq_map_unref(struct svq_map *map);

size_t svq_map_count(const struct svq_map *map);
/* The region at a position in the order given to svq_map_new(); its fd is the map's own. */
const struct svq_region *svq_map_region(const struct svq_map *map, size_t i);

/* Are two regions pieces of one file? */
bool svq_map_same_file(const struct svq_map *map, size_t a, size_t b);

/**
 * svq_map_gpa() - a pointer to [gpa, gpa + len), or NULL unless one region holds all of it.
 * len 0 is translated when gpa itself lies in a region.
 */
void *svq_map_gpa(const struct svq_map *map, uint64_t gpa, uint64_t len);
/* The same for front-end user addresses. */
void *svq_map_uaddr(const struct svq_map *map, uint64_t uaddr, uint64_t len);

/**
 * svq_map_uaddr_to_gpa() - the guest-physical address of [uaddr, uaddr + len).
 *
 * Return: false, and *gpa as it was, unless one region holds all of it.
 */
bool svq_map_uaddr_to_gpa(const struct svq_map *map, uint64_t uaddr, uint64_t len, uint64_t *gpa);

/**
 * svq_map_holds() - does guest memory hold all of [gpa, gpa + len)? Unlike svq_map_gpa() the range
 * may cross from one region into an adjacent one, as a guest's buffers do.
 * @hint: position of the region that matched last, updated; the caller's own, start with 0
 */
bool svq_map_holds(const struct svq_map *map, uint64_t gpa, uint64_t len, unsigned *hint);

/* ---- Dirty log -------------------------------------------------------------------------- */

#define SVQ_LOG_PAGE 4096u /* bytes of guest memory per bit (vhost-user, "Migration") */

struct svq_log;

/**
 * svq_log_new() - map a dirty log: bit (gpa / 4096), least significant bit first, from gpa 0.
 * @fd: the file; stays the caller's. @size: bytes, any number. @offset: bytes into the file, any
 *
 * Return: 0; -EINVAL for size 0 or offset + size wrapping; -ERANGE when the file is too short;
 * or mmap's error.
 */
int svq_log_new(int fd, uint64_t size, uint64_t offset, struct svq_log **out);

struct svq_log *svq_log_ref(struct svq_log *log);
void svq_log_unref(struct svq_log *log);

/* Would svq_log_mark() of this range fit the log? len 0 always does. */
bool svq_log_covers(const struct svq_log *log, uint64_t gpa, uint64_t len);

/**
 * svq_log_mark() - set the bits of every page that [gpa, gpa + len) touches, atomically.
 * The bits are shared with another process that clears them at will. Any thread.
 *
 * Return: 0, or -ERANGE with nothing set when the range wraps or lies outside the log.
 */
int svq_log_mark(struct svq_log *log, uint64_t gpa, uint64_t len);

#ifdef __cplusplus
}
#endif
#endif
