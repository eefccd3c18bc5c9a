/*
 * directory_fixture.c - see directory_fixture.h. Stateless.
 */
#include "tests/directory_fixture.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char name_template[] = "nightjar.XXXXXX";

int directory_fixture_create(char path[DIRECTORY_FIXTURE_BYTES])
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || strlen(base) + 1 + sizeof(name_template) > DIRECTORY_FIXTURE_BYTES)
        base = "/tmp";
    snprintf(path, DIRECTORY_FIXTURE_BYTES, "%s/%s", base, name_template);
    return mkdtemp(path) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

int directory_fixture_remove(const char *path)
{
    enum { OPEN_DIRECTORIES_MAX = 16 };
    return nftw(path, remove_entry, OPEN_DIRECTORIES_MAX, FTW_DEPTH | FTW_PHYS);
}
