/* SPDX-License-Identifier: BSD-3-Clause */
/* The words that options, QMP and status use for a device's settings and states. */
#ifndef SVQ_DAEMON_NAMES_H
#define SVQ_DAEMON_NAMES_H

#include "device/device.h"

/* Words for 0, 1, 2...; a NULL ends the list. */
typedef const char *const svq_word_list[];

extern svq_word_list svq_shadow_policy_words;    /* enum svq_shadow_policy */
extern svq_word_list svq_dirty_log_policy_words; /* enum svq_dirty_log_policy */
extern svq_word_list svq_ring_choice_words;      /* enum svq_ring_choice */
extern svq_word_list svq_descriptors_words;      /* enum svq_descriptors */
extern svq_word_list svq_ring_format_words;      /* enum svq_ring_format */
extern svq_word_list svq_device_mode_words;      /* enum svq_device_mode */
extern svq_word_list svq_logging_words;          /* enum svq_logging */
extern svq_word_list svq_link_words;             /* enum svq_link */
extern svq_word_list svq_switch_words;           /* bool */

/* The position of a word in its list, or -1. */
int svq_word_find(const char *const *words, const char *word);

#endif
