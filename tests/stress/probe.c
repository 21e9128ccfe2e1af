/* SPDX-License-Identifier: BSD-3-Clause */
#include "probe.h"

#ifdef PROBE_NOTHING /* a sanitizer's runtime is there itself */

void probe_start(enum probe_memory memory, uint64_t seed, unsigned chance, void (*act)(void *arg),
                 void *arg)
{
    (void)memory, (void)seed, (void)chance, (void)act, (void)arg;
}

void probe_stop(void)
{
}

void probe_flush(void)
{
}

uint64_t probe_count(void)
{
    return 0;
}

#else

#include <string.h>

#include "kit/rng.h"

#define BUFFER 64u

/* A store that the others do not see yet. */
struct store {
    void *address;
    uint64_t value;
    uint8_t size;
    bool release; /* not before all that came before it */
};

static struct {
    bool active;
    enum probe_memory memory;
    struct kit_rng rng;
    unsigned chance;
    void (*act)(void *arg);
    void *arg;
    uint64_t count;
    struct store stores[BUFFER]; /* oldest first */
    unsigned store_count;
} probe;

void probe_start(enum probe_memory memory, uint64_t seed, unsigned chance, void (*act)(void *arg),
                 void *arg)
{
    probe_flush();
    probe.active = true;
    probe.memory = memory;
    probe.rng.state = seed;
    probe.chance = chance;
    probe.act = act;
    probe.arg = arg;
}

void probe_stop(void)
{
    probe_flush();
    probe.active = false;
}

uint64_t probe_count(void)
{
    return probe.count;
}

/* ---- The store buffer -------------------------------------------------------------------------
 */

static void let_out(unsigned i)
{
    const struct store *s = &probe.stores[i];

    switch (s->size) {
    case 1:
        __atomic_store_n((uint8_t *)s->address, (uint8_t)s->value, __ATOMIC_SEQ_CST);
        break;
    case 2:
        __atomic_store_n((uint16_t *)s->address, (uint16_t)s->value, __ATOMIC_SEQ_CST);
        break;
    case 4:
        __atomic_store_n((uint32_t *)s->address, (uint32_t)s->value, __ATOMIC_SEQ_CST);
        break;
    default:
        __atomic_store_n((uint64_t *)s->address, s->value, __ATOMIC_SEQ_CST);
        break;
    }
    probe.store_count--;
    memmove(&probe.stores[i], &probe.stores[i + 1],
            (probe.store_count - i) * sizeof(probe.stores[0]));
}

void probe_flush(void)
{
    while (probe.store_count)
        let_out(0);
}

static bool overlap(const struct store *s, const void *address, unsigned size)
{
    uintptr_t a = (uintptr_t)s->address, b = (uintptr_t)address;

    return a < b + size && b < a + s->size;
}

/* May the i-th one overtake those before it? */
static bool may_overtake(unsigned i)
{
    const struct store *s = &probe.stores[i];

    if (probe.memory != PROBE_WEAK || s->release)
        return i == 0;
    for (unsigned k = 0; k < i; k++)
        if (overlap(&probe.stores[k], s->address, s->size))
            return false;
    return true;
}

static void let_some_out(void)
{
    unsigned i;

    if (!probe.store_count || kit_percent(&probe.rng, 70))
        return;
    i = kit_below(&probe.rng, probe.store_count);
    let_out(may_overtake(i) ? i : 0);
}

static void store(void *address, uint64_t value, unsigned size, int order)
{
    if (order == __ATOMIC_SEQ_CST)
        probe_flush();
    if (probe.store_count == BUFFER)
        let_out(0);
    probe.stores[probe.store_count++] =
        (struct store){address, value, (uint8_t)size, order != __ATOMIC_RELAXED};
    if (!probe.active || probe.memory == PROBE_STRICT || order == __ATOMIC_SEQ_CST)
        probe_flush();
}

/* Return: whether the relay's own buffer has it. */
static bool forwarded(const void *address, unsigned size, uint64_t *value)
{
    for (unsigned i = probe.store_count; i-- > 0;) {
        const struct store *s = &probe.stores[i];

        if (s->address == address && s->size == size) {
            *value = s->value;
            return true;
        }
        if (overlap(s, address, size)) {
            probe_flush();
            return false;
        }
    }
    return false;
}

/* Between two accesses. */
static void point(void)
{
    if (!probe.active)
        return;
    probe.count++;
    let_some_out();
    if (!probe.chance || kit_below(&probe.rng, probe.chance))
        return;
    probe.active = false;
    probe.act(probe.arg);
    probe.active = true;
}

/* ---- What the compiler calls ------------------------------------------------------------------
 */

/* Names and arguments are those of the sanitizer's runtime. */

#define ATOMIC(bits)                                                                              \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *address, int order); \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *address, uint##bits##_t value,      \
                                     int order);                                                  \
    uint##bits##_t __tsan_atomic##bits##_fetch_or(volatile uint##bits##_t *address,               \
                                                  uint##bits##_t value, int order);               \
    uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t *address,              \
                                                   uint##bits##_t value, int order);              \
    uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t *address,              \
                                                   uint##bits##_t value, int order);              \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *address, int order)  \
    {                                                                                             \
        uint64_t value;                                                                           \
                                                                                                  \
        (void)order;                                                                              \
        point();                                                                                  \
        if (forwarded((const void *)(uintptr_t)address, bits / 8, &value))                        \
            return (uint##bits##_t)value;                                                         \
        return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                        \
    }                                                                                             \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *address, uint##bits##_t value,      \
                                     int order)                                                   \
    {                                                                                             \
        point();                                                                                  \
        store((void *)(uintptr_t)address, value, bits / 8, order);                                \
    }                                                                                             \
    uint##bits##_t __tsan_atomic##bits##_fetch_or(volatile uint##bits##_t *address,               \
                                                  uint##bits##_t value, int order)                \
    {                                                                                             \
        (void)order;                                                                              \
        point();                                                                                  \
        probe_flush();                                                                            \
        return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST);                               \
    }                                                                                             \
    uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t *address,              \
                                                   uint##bits##_t value, int order)               \
    {                                                                                             \
        (void)order;                                                                              \
        point();                                                                                  \
        probe_flush();                                                                            \
        return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                              \
    }                                                                                             \
    uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t *address,              \
                                                   uint##bits##_t value, int order)               \
    {                                                                                             \
        (void)order;                                                                              \
        point();                                                                                  \
        probe_flush();                                                                            \
        return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                              \
    }

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    point();
    if (order == __ATOMIC_SEQ_CST) {
        probe_flush();
    } else if (order != __ATOMIC_ACQUIRE) {
        /* Release: what comes later waits for what came before. */
        for (unsigned i = 0; i < probe.store_count; i++)
            probe.stores[i].release = true;
    }
}

/* Against the compiler only, which has been and gone. */
void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
    (void)order;
}

/* What is not atomic is not shared. */
#define PLAIN(name)           \
    void name(void *address); \
    void name(void *address)  \
    {                         \
        (void)address;        \
    }

#define PLAIN_SIZES(name) \
    PLAIN(name##1)        \
    PLAIN(name##2)        \
    PLAIN(name##4)        \
    PLAIN(name##8)        \
    PLAIN(name##16)

PLAIN_SIZES(__tsan_read)
PLAIN_SIZES(__tsan_write)
PLAIN_SIZES(__tsan_unaligned_read)
PLAIN_SIZES(__tsan_unaligned_write)
PLAIN(__tsan_func_entry)

void __tsan_read_range(void *address, size_t size);
void __tsan_write_range(void *address, size_t size);
void __tsan_func_exit(void);
void __tsan_init(void);
void *__tsan_memcpy(void *to, const void *from, size_t size);
void *__tsan_memmove(void *to, const void *from, size_t size);
void *__tsan_memset(void *to, int byte, size_t size);

void __tsan_read_range(void *address, size_t size)
{
    (void)address, (void)size;
}

void __tsan_write_range(void *address, size_t size)
{
    (void)address, (void)size;
}

void __tsan_func_exit(void)
{
}

void __tsan_init(void)
{
}

void *__tsan_memcpy(void *to, const void *from, size_t size)
{
    return memcpy(to, from, size);
}

void *__tsan_memmove(void *to, const void *from, size_t size)
{
    return memmove(to, from, size);
}

void *__tsan_memset(void *to, int byte, size_t size)
{
    return memset(to, byte, size);
}

#endif
