/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the sanitizers must be told when a thread changes stacks; nothing in other builds.
 */
#ifndef SVQ_EVENT_SANITIZER_H
#define SVQ_EVENT_SANITIZER_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SVQ_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SVQ_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SVQ_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define SVQ_TSAN 1
#endif

/* One stack, as the sanitizers know it. */
struct svq_stack {
    void *bottom;
    size_t size;
    void *fake; /* ASan's own shadow of the stack while another one runs */
    void *tsan;
};

#ifdef SVQ_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SVQ_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* About to leave `from` for `to`; last: `from` will never run again. */
static inline void svq_stack_leave(struct svq_stack *from, struct svq_stack *to, int last)
{
    (void)from, (void)to, (void)last;
#ifdef SVQ_ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake, to->bottom, to->size);
#endif
#ifdef SVQ_TSAN
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
}

/* Running on `self` now, having come from `from`. */
static inline void svq_stack_arrive(struct svq_stack *self, struct svq_stack *from)
{
    (void)self, (void)from;
#ifdef SVQ_ASAN
    const void *bottom;
    size_t size;

    __sanitizer_finish_switch_fiber(self->fake, &bottom, &size);
    /* The thread's own stack is only known from here. */
    from->bottom = (void *)bottom;
    from->size = size;
#endif
}

static inline void svq_stack_create(struct svq_stack *s)
{
    (void)s;
#ifdef SVQ_TSAN
    s->tsan = __tsan_create_fiber(0);
#endif
}

static inline void svq_stack_destroy(struct svq_stack *s)
{
    (void)s;
#ifdef SVQ_TSAN
    __tsan_destroy_fiber(s->tsan);
#endif
}

static inline void svq_stack_current(struct svq_stack *s)
{
    (void)s;
#ifdef SVQ_TSAN
    s->tsan = __tsan_get_current_fiber();
#endif
}

#endif
