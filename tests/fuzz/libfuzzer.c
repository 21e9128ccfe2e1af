/* SPDX-License-Identifier: BSD-3-Clause */
/* With libFuzzer: fill the corpus folder on the command line with the target's seeds. */
#include <stdio.h>
#include <sys/stat.h>

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);

static void write_seeds(const char *folder)
{
    static uint8_t data[FUZZ_MAX];
    size_t size;

    mkdir(folder, 0777);
    for (unsigned i = 0; (size = fuzz_seed(i, data)) > 0; i++) {
        char path[4096];
        FILE *file;

        snprintf(path, sizeof(path), "%s/seed-%u", folder, i);
        file = fopen(path, "wb");
        if (!file) {
            perror(path);
            return;
        }
        fwrite(data, 1, size, file);
        fclose(file);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct stat st;

    for (int i = 1; i < *argc; i++) {
        const char *arg = (*argv)[i];

        if (arg[0] == '-')
            continue;
        if (stat(arg, &st) < 0 || S_ISDIR(st.st_mode))
            write_seeds(arg);
        break;
    }
    return 0;
}
