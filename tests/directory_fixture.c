/*
 * directory_fixture.c - see directory_fixture.h. Stateless.
 */
#include "tests/directory_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char name_template[] = "nightjar.XXXXXX";

int directory_fixture_create(char path[DIRECTORY_FIXTURE_BYTES])
{
    const char *base = getenv("TMPDIR");
    char *real = base && *base ? realpath(base, NULL) : NULL;
    if (!real || strlen(real) + 1 + sizeof(name_template) > DIRECTORY_FIXTURE_BYTES) {
        free(real);
        real = realpath("/tmp", NULL);
    }
    if (!real)
        return -1;
    snprintf(path, DIRECTORY_FIXTURE_BYTES, "%s/%s", real, name_template);
    free(real);
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

int directory_fixture_entries(const char *path)
{
    DIR *directory = opendir(path);
    assert_non_null(directory);
    int count = -2;
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

void directory_fixture_write(const char *path, const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

void directory_fixture_tree(const char *root, const char *path, const char *text)
{
    char name[512];
    int length = snprintf(name, sizeof(name), "%s%s", root, path);
    assert_true(length > 0 && (size_t)length < sizeof(name));
    for (char *slash = strchr(name + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(name, 0700);
        *slash = '/';
    }
    directory_fixture_write(name, text, strlen(text));
}
