/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVQ_DAEMON_SIGBUS_H
#define SVQ_DAEMON_SIGBUS_H

/*
 * A peer that truncates a file we have mapped turns our next access into SIGBUS. Handle it: the
 * lost page reads as zeros from then on, so that only that peer's device suffers. Call once, early.
 */
void svq_sigbus_guard(void);

#endif
