/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libshadowvq: shadow virtqueues for any VMM and any vhost back-end. This header is the manual's
 * table of contents; each header below documents its calls.
 *
 * Conventions: functions that can fail return 0 or -errno. The library never prints, keeps no
 * global state and never sleeps. Objects are opaque; *_new() makes, *_free() or *_unref() ends.
 */
#ifndef SHADOWVQ_SHADOWVQ_H
#define SHADOWVQ_SHADOWVQ_H

#include <shadowvq/inflight.h>
#include <shadowvq/mem.h>
#include <shadowvq/relay.h>
#include <shadowvq/version.h>
#include <shadowvq/vhost_user.h>

#endif
