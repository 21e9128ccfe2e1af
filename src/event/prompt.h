/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How soon the control thread gets a processor. A guest may stand still while it waits for one, and
 * those who poll all the time (svqd's workers, back-ends, vCPUs) leave theirs only at a tick of the
 * system's clock, after up to 4 ms. The calling thread's affair; nothing here fails.
 */
#ifndef SVQ_EVENT_PROMPT_H
#define SVQ_EVENT_PROMPT_H

/* Exact timers, and a short time slice, which goes before others' longer ones (Linux 6.12). */
void svq_prompt_start(void);

/*
 * A guest stands still from hurry to relax: with real-time priority, if RLIMIT_RTPRIO or
 * CAP_SYS_NICE allows that. Not for long work: what shares the processor would wait for it. Calls
 * of several fibers may overlap.
 */
void svq_prompt_hurry(void);
void svq_prompt_relax(void);

#endif
