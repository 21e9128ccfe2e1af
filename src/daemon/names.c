/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/names.h"

#include <string.h>

svq_word_list svq_shadow_policy_words = {
    [SVQ_SHADOW_AUTO] = "auto",
    [SVQ_SHADOW_ON] = "on",
    [SVQ_SHADOW_OFF] = "off",
    NULL,
};

svq_word_list svq_dirty_log_policy_words = {
    [SVQ_DIRTY_LOG_AUTO] = "auto",
    [SVQ_DIRTY_LOG_SHADOW] = "shadow",
    [SVQ_DIRTY_LOG_BACKEND] = "backend",
    NULL,
};

svq_word_list svq_ring_choice_words = {
    [SVQ_RING_CHOICE_AUTO] = "auto",
    [SVQ_RING_CHOICE_SPLIT] = "split",
    [SVQ_RING_CHOICE_PACKED] = "packed",
    NULL,
};

svq_word_list svq_descriptors_words = {
    [SVQ_DESCRIPTORS_SHARED] = "shared",
    [SVQ_DESCRIPTORS_COPIED] = "copied",
    NULL,
};

svq_word_list svq_ring_format_words = {
    [SVQ_RING_SPLIT] = "split",
    [SVQ_RING_PACKED] = "packed",
    NULL,
};

svq_word_list svq_device_mode_words = {
    [SVQ_MODE_STOPPED] = "stopped",
    [SVQ_MODE_PASS_THROUGH] = "pass-through",
    [SVQ_MODE_SHADOW] = "shadow",
    NULL,
};

svq_word_list svq_logging_words = {
    [SVQ_LOGGING_OFF] = "off",
    [SVQ_LOGGING_SHADOW] = "shadow",
    [SVQ_LOGGING_BACKEND] = "backend",
    NULL,
};

svq_word_list svq_link_words = {
    [SVQ_LINK_NONE] = "none",
    [SVQ_LINK_UP] = "up",
    [SVQ_LINK_LOST] = "lost",
    [SVQ_LINK_REFUSED] = "refused",
    NULL,
};

svq_word_list svq_switch_words = {
    [false] = "off",
    [true] = "on",
    NULL,
};

int svq_word_find(const char *const *words, const char *word)
{
    int i;

    for (i = 0; words[i]; i++) {
        if (strcmp(words[i], word) == 0)
            return i;
    }
    return -1;
}
