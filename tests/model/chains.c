/* SPDX-License-Identifier: BSD-3-Clause */
/* Shapes and memory of the guest's chains. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Buffers of chains that are too long for a cell each: pieces of big cells. */
#define PIECE        8u
#define PIECES       (MODEL_BIG / PIECE)
#define CARVED_ABOVE 64u

/* ---- Memory -------------------------------------------------------------------------------- */

static void pool_init(struct pool *pool, uint64_t base, uint32_t cell, uint32_t count)
{
    pool->base = base;
    pool->cell = cell;
    pool->count = count;
    pool->spare = malloc(count * sizeof(*pool->spare));
    kit_require(pool->spare != NULL);
    for (uint32_t i = 0; i < count; i++)
        pool->spare[i] = i;
}

void pools_init(struct guest *g)
{
    pool_init(&g->cells, MODEL_CELLS, MODEL_CELL, MODEL_CELL_COUNT);
    pool_init(&g->bigs, MODEL_BIGS, MODEL_BIG, MODEL_BIG_COUNT);
    pool_init(&g->huges, MODEL_HUGES, MODEL_HUGE, MODEL_HUGE_COUNT);
}

void pools_free(struct guest *g)
{
    free(g->cells.spare);
    free(g->bigs.spare);
    free(g->huges.spare);
}

/* Near the top of the stack, so that pages are used again soon; but not always the same. */
static uint64_t pool_get(struct world *w, struct pool *pool)
{
    uint32_t depth = pool->count < 64 ? pool->count : 64;
    uint32_t at, index;

    kit_require(pool->count > 0);
    at = pool->count - 1 - kit_below(&w->rng, depth);
    index = pool->spare[at];
    pool->spare[at] = pool->spare[--pool->count];
    return pool->base + (uint64_t)index * pool->cell;
}

static void put_memory(struct guest *g, uint64_t gpa)
{
    struct pool *pool = gpa >= MODEL_HUGES ? &g->huges : gpa >= MODEL_BIGS ? &g->bigs : &g->cells;

    pool->spare[pool->count++] = (uint32_t)((gpa - pool->base) / pool->cell);
}

static struct kit_buf new_buf(struct world *w, bool write)
{
    struct guest *g = &w->guest;
    bool big = g->bigs.count > MODEL_BIG_COUNT / 2 && kit_percent(&w->rng, 3);
    uint32_t size = big ? MODEL_BIG : MODEL_CELL;
    uint32_t offset = kit_below(&w->rng, size), len = kit_below(&w->rng, size - offset + 1);

    if (kit_percent(&w->rng, 5))
        len = 0;
    return (struct kit_buf){pool_get(w, big ? &g->bigs : &g->cells) + offset, len, write};
}

/* ---- Shapes -------------------------------------------------------------------------------- */

static unsigned longest_table(const struct world *w)
{
    return w->front.num > MODEL_MAX_TABLE ? w->front.num : MODEL_MAX_TABLE;
}

/* The most buffers that a chain may have: whatever fits the shadow ring at all. */
static unsigned longest_chain(const struct world *w)
{
    unsigned limit = w->front.num - 1 + longest_table(w);

    if (!w->front.indirect)
        return w->front.num;
    /* Flattened, a chain needs a slot for each buffer. */
    if (!w->back.indirect && w->back.num < limit)
        return w->back.num;
    return limit;
}

/* How many buffers: mostly few, sometimes as many as may be. */
static unsigned pick_count(struct world *w)
{
    unsigned limit = longest_chain(w), draw = kit_below(&w->rng, 100), most;

    if (draw < w->guest.long_percent) {
        if (kit_percent(&w->rng, w->guest.most_percent))
            return limit;
        most = draw ? CARVED_ABOVE : MODEL_MAX_TABLE;
    } else {
        most = draw & 1 ? 3 : 6;
    }
    return kit_between(&w->rng, 1, most < limit ? most : limit);
}

static unsigned pick_direct(struct world *w, unsigned count)
{
    unsigned direct = count, table = longest_table(w);

    if (w->front.indirect && (count > w->front.num || kit_percent(&w->rng, 60)))
        direct = kit_percent(&w->rng, 70) ? 0 : kit_below(&w->rng, count);
    if (direct < count && count - direct > table)
        direct = count - table;
    if (direct < count && direct + 1 > w->front.num)
        direct = w->front.num - 1;
    return direct;
}

static bool memory_left(const struct guest *g, unsigned count, unsigned table)
{
    unsigned bigs = 0, cells = 0, huges = 0;

    if (count > CARVED_ABOVE)
        bigs = (count + PIECES - 1) / PIECES;
    else
        cells = count;
    if (table * 16 > MODEL_BIG)
        huges = 1;
    else if (table * 16 > MODEL_CELL)
        bigs++;
    else if (table)
        cells++;
    return cells <= g->cells.count && bigs <= g->bigs.count && huges <= g->huges.count;
}

static uint64_t new_table(struct world *w, unsigned entries)
{
    struct guest *g = &w->guest;
    size_t size = 16 * (size_t)entries;

    if (size <= MODEL_CELL)
        return pool_get(w, &g->cells);
    return pool_get(w, size <= MODEL_BIG ? &g->bigs : &g->huges);
}

/* The piece's place in its big cell is its place in the chain, so that chain_free() finds both. */
static struct kit_buf new_piece(struct world *w, const struct chain *chain, unsigned i, bool write)
{
    uint64_t gpa = i % PIECES ? chain->bufs[i - 1].gpa + PIECE : pool_get(w, &w->guest.bigs);

    return (struct kit_buf){gpa, kit_below(&w->rng, PIECE + 1), write};
}

struct chain *chain_new(struct world *w)
{
    unsigned count = pick_count(w), direct = pick_direct(w, count);
    unsigned readable = kit_below(&w->rng, count + 1);
    struct chain *chain;

    if (!memory_left(&w->guest, count, count - direct))
        count = direct = readable = 1;
    if (!memory_left(&w->guest, count, 0))
        return NULL;
    chain = malloc(sizeof(*chain) + count * sizeof(chain->bufs[0]));
    kit_require(chain != NULL);
    memset(chain, 0, sizeof(*chain));
    chain->number = w->queue.offered;
    chain->count = count;
    chain->direct = direct;
    chain->carved = count > CARVED_ABOVE;
    chain->scatter = kit_percent(&w->rng, 50);
    if (direct < count)
        chain->table = new_table(w, count - direct);
    for (unsigned i = 0; i < count; i++) {
        bool write = i >= readable;

        chain->bufs[i] = chain->carved ? new_piece(w, chain, i, write) : new_buf(w, write);
        chain->bytes += chain->bufs[i].len;
        if (write)
            chain->writable += chain->bufs[i].len;
    }
    return chain;
}

void chain_free(struct world *w, struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i += chain->carved ? PIECES : 1)
        put_memory(&w->guest, chain->bufs[i].gpa);
    if (chain->table)
        put_memory(&w->guest, chain->table);
    free(chain);
}

/* ---- Bytes --------------------------------------------------------------------------------- */

static size_t end_size(const struct kit_buf *buf)
{
    return buf->len < 8 ? buf->len : 8;
}

static uint64_t value_of(const struct chain *chain, unsigned i, bool answer)
{
    uint64_t value = chain->number * UINT64_C(0x9e3779b97f4a7c15) + i;

    return (answer ? ~value : value) | 1;
}

void chain_fill(const struct world *w, const struct chain *chain, unsigned i, bool answer)
{
    const struct kit_buf *buf = &chain->bufs[i];
    uint8_t *p = kit_memory_at(w->memory, buf->gpa, buf->len);
    uint64_t value = buf->write && !answer ? 0 : value_of(chain, i, answer);

    memcpy(p, &value, end_size(buf));
    memcpy(p + buf->len - end_size(buf), &value, end_size(buf));
}

bool chain_filled(const struct world *w, const struct chain *chain, unsigned i, bool answer)
{
    const struct kit_buf *buf = &chain->bufs[i];
    const uint8_t *p = kit_memory_at(w->memory, buf->gpa, buf->len);
    uint64_t value = value_of(chain, i, answer);
    size_t end = end_size(buf);

    /* Between 8 and 16 bytes the ends overlap: the second one was written last. */
    if (memcmp(p + buf->len - end, &value, end))
        return false;
    return buf->len < 16 || !memcmp(p, &value, end);
}
