/* SPDX-License-Identifier: BSD-3-Clause */
/* Which pages lie below shadow rings: huge ones where they are worth it, near the workers. */
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/region_file.h"

#define RESERVED_SYSCTL "/proc/sys/vm/nr_hugepages"

static void use_policy(enum svq_huge_pages huge_pages, int node)
{
    const struct svq_region_policy policy = {huge_pages, node};

    svq_region_pages_policy(&policy);
}

static int usual_policy(void **state)
{
    (void)state;
    use_policy(SVQ_HUGE_PAGES_AUTO, SVQ_NUMA_ANY);
    return 0;
}

static struct svq_region_file *file_for(unsigned rings)
{
    struct svq_region_file *file = NULL;

    assert_int_equal(svq_region_file_new(rings, true, &file), 0);
    assert_int_equal((uintptr_t)file->host % SVQ_HUGE_PAGE, 0);
    return file;
}

static void place(struct svq_region_file *file, unsigned ring, unsigned num)
{
    struct svq_ring_place p;

    assert_true(
        svq_region_file_place(file, ring, SVQ_RING_SPLIT, num, svq_relay_tables_max(num), &p));
}

/* A line of smaps about the mapping that this address is in: text and, if it is one, number. */
static uint64_t smaps(const void *address, const char *line, char *text, size_t size)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    uint64_t from = 0, to = 0, number = 0;
    size_t length = strlen(line);
    char buffer[600];

    assert_non_null(file);
    text[0] = '\0';
    while (!text[0] && fgets(buffer, sizeof(buffer), file)) {
        if (sscanf(buffer, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            continue;
        if ((uintptr_t)address < from || (uintptr_t)address >= to)
            continue;
        if (strncmp(buffer, line, length) == 0) {
            snprintf(text, size, "%s", buffer + length);
            number = strtoull(text, NULL, 10);
        }
    }
    fclose(file);
    return number;
}

static bool has_flag(const void *address, const char *flag)
{
    char flags[300];

    smaps(address, "VmFlags:", flags, sizeof(flags));
    return strstr(flags, flag) != NULL;
}

static bool system_has_transparent(void)
{
    return access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) == 0;
}

/* ---- Transparent huge pages ---- */

static void test_small_rings_take_small_pages(void **state)
{
    struct svq_region_file *file = file_for(8);
    struct stat st;

    (void)state;
    for (unsigned i = 0; i < 8; i++)
        place(file, i, 256);
    assert_false(has_flag(file->host, " hg"));
    memset(file->host, 1, 4096);
    assert_int_equal(fstat(file->fd, &st), 0);
    assert_in_range(st.st_blocks * 512, 4096, 65536);
    svq_region_file_unref(file);
}

static void test_large_rings_may_have_huge_ones(void **state)
{
    struct svq_region_file *file = file_for(8);

    (void)state;
    place(file, 0, SVQ_RING_MAX);
    if (system_has_transparent()) {
        assert_true(has_flag(file->host, " hg"));
        /* Nothing lies there. */
        assert_false(has_flag(file->host + file->size - 1, " hg"));
    }
    svq_region_file_unref(file);
}

static void test_off(void **state)
{
    struct svq_region_file *file;

    (void)state;
    use_policy(SVQ_HUGE_PAGES_OFF, SVQ_NUMA_ANY);
    file = file_for(8);
    place(file, 0, SVQ_RING_MAX);
    assert_false(has_flag(file->host, " hg"));
    svq_region_file_unref(file);
}

/* ---- Reserved huge pages ---- */

static unsigned read_reserved(void)
{
    FILE *file = fopen(RESERVED_SYSCTL, "re");
    unsigned pages = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%u", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages;
}

static bool write_reserved(unsigned pages)
{
    FILE *file = fopen(RESERVED_SYSCTL, "we");
    bool ok;

    if (!file)
        return false;
    ok = fprintf(file, "%u", pages) > 0;
    return fclose(file) == 0 && ok;
}

/* More than any system has: the file must be made all the same, of usual pages. */
static void test_reserved_without_any(void **state)
{
    unsigned before = read_reserved();
    struct svq_region_file *file;

    (void)state;
    if (before)
        skip();
    use_policy(SVQ_HUGE_PAGES_RESERVED, SVQ_NUMA_ANY);
    file = file_for(8);
    assert_false(file->pages.reserved);
    place(file, 0, 256);
    memset(file->host, 1, file->size);
    svq_region_file_unref(file);
}

static void test_reserved(void **state)
{
    unsigned before = read_reserved();
    struct svq_region_file *file;
    char text[60];
    struct stat st;
    void *other;

    (void)state;
    use_policy(SVQ_HUGE_PAGES_RESERVED, SVQ_NUMA_ANY);
    if (!write_reserved(before + 32))
        skip();
    file = file_for(8);
    if (!file->pages.reserved) {
        /* Not so many in one piece. */
        svq_region_file_unref(file);
        write_reserved(before);
        skip();
    }
    place(file, 0, 256);
    memset(file->host, 1, file->size);
    assert_int_equal(smaps(file->host, "KernelPageSize:", text, sizeof(text)), 2048);
    /* As a back-end does that rounds what it maps up to the file's block size. */
    assert_int_equal(fstat(file->fd, &st), 0);
    assert_int_equal(st.st_blksize, SVQ_HUGE_PAGE);
    assert_int_equal(file->size % (uint64_t)st.st_blksize, 0);
    other = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    assert_ptr_not_equal(other, MAP_FAILED);
    assert_int_equal(((uint8_t *)other)[file->size - 1], 1);
    munmap(other, file->size);
    assert_int_not_equal(ftruncate(file->fd, 0), 0);
    svq_region_file_unref(file);
    assert_true(write_reserved(before));
}

/* ---- NUMA ---- */

static char tree[] = "/tmp/svq-numa-XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[100];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", tree, name);
    file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void make_folder(const char *name)
{
    char path[100];

    snprintf(path, sizeof(path), "%s/%s", tree, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* As on a machine with processors 0 and 1 on one node, and 2 and 3 on the other. */
static int make_tree(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(tree));
    make_folder("node");
    write_file("node/online", "0-1\n");
    make_folder("cpu");
    for (unsigned i = 0; i < 4; i++) {
        char name[40];

        snprintf(name, sizeof(name), "cpu/cpu%u", i);
        make_folder(name);
        snprintf(name, sizeof(name), "cpu/cpu%u/node%u", i, i / 2);
        make_folder(name);
        snprintf(name, sizeof(name), "cpu/cpu%u/node_misleading", i);
        make_folder(name);
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int remove_tree(void **state)
{
    (void)state;
    return nftw(tree, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void test_node_of_processors(void **state)
{
    static const uint16_t cpus[] = {0, 1, 2, 3, 4};

    (void)state;
    assert_int_equal(svq_numa_node(tree, cpus, 2), 0);
    assert_int_equal(svq_numa_node(tree, cpus + 2, 2), 1);
    assert_int_equal(svq_numa_node(tree, cpus + 1, 1), 0);
    assert_int_equal(svq_numa_node(tree, cpus + 1, 2), SVQ_NUMA_ANY);
    assert_int_equal(svq_numa_node(tree, cpus + 3, 2), SVQ_NUMA_ANY);
    assert_int_equal(svq_numa_node(tree, cpus, 0), SVQ_NUMA_ANY);
    write_file("node/online", "0,1\n");
    assert_int_equal(svq_numa_node(tree, cpus, 2), 0);
    /* There is nothing to choose. */
    write_file("node/online", "0\n");
    assert_int_equal(svq_numa_node(tree, cpus, 2), SVQ_NUMA_ANY);
    assert_int_equal(svq_numa_node("/nonexistent", cpus, 2), SVQ_NUMA_ANY);
}

static void test_rings_prefer_a_node(void **state)
{
    unsigned long nodes[16] = {0};
    struct svq_region_file *file;
    int mode = -1;

    (void)state;
    use_policy(SVQ_HUGE_PAGES_AUTO, 0);
    file = file_for(8);
    if (syscall(SYS_get_mempolicy, &mode, nodes, sizeof(nodes) * 8, file->host, MPOL_F_ADDR) < 0) {
        svq_region_file_unref(file);
        skip();
    }
    assert_int_equal(mode, MPOL_PREFERRED);
    assert_int_equal(nodes[0], 1);
    memset(file->host, 1, 4096);
    svq_region_file_unref(file);

    /* A node that is not there does no harm. */
    use_policy(SVQ_HUGE_PAGES_AUTO, 1000);
    file = file_for(8);
    memset(file->host, 1, 4096);
    svq_region_file_unref(file);
    assert_int_not_equal(svq_numa_prefer(tree, 1, -1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_small_rings_take_small_pages, usual_policy),
        cmocka_unit_test_setup(test_large_rings_may_have_huge_ones, usual_policy),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_reserved_without_any),
        cmocka_unit_test(test_reserved),
        cmocka_unit_test_setup_teardown(test_node_of_processors, make_tree, remove_tree),
        cmocka_unit_test_setup(test_rings_prefer_a_node, usual_policy),
    };

    return cmocka_run_group_tests_name("region_pages", tests, NULL, NULL);
}
