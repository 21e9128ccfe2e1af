/* SPDX-License-Identifier: BSD-3-Clause */
#include "sim/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int sim_folder_make(char path[SIM_FOLDER_MAX], const char *name)
{
    const char *tmp = getenv("TMPDIR");
    int length = SIM_FOLDER_MAX;

    if (tmp)
        length = snprintf(path, SIM_FOLDER_MAX, "%s/%s.XXXXXX", tmp, name);
    if (length >= SIM_FOLDER_MAX)
        snprintf(path, SIM_FOLDER_MAX, "/tmp/%s.XXXXXX", name);
    if (mkdtemp(path))
        return 0;
    path[0] = '\0';
    return -errno;
}

void sim_folder_remove(const char *path)
{
    DIR *dir = path[0] ? opendir(path) : NULL;
    struct dirent *entry;

    if (!dir)
        return;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    rmdir(path);
}
