/* Kills the program before its n-th step on the disk, when a file asks for it: loaded
 * before libc, so that the program itself is as it is.
 *
 * STEPS_FILE names the file. While it is there it holds n, and steps are counted; the
 * file with ".met" at its end is made before the kill. A step is what changes a file of
 * the asset cache, and each commit to the database of records. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static atomic_int steps;
static atomic_llong last_commit;

static void count(void) {
    const char *name = getenv("STEPS_FILE");
    char text[32] = "", met[PATH_MAX];
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) {
        atomic_store(&steps, 0);
        return;
    }
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0 || atomic_fetch_add(&steps, 1) + 1 != atoi(text))
        return;
    snprintf(met, sizeof met, "%s.met", name);
    close(open(met, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void at_path(const char *path) {
    if (strstr(path, "/assets/"))
        count();
}

static void at_file(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return;
    path[length] = 0;
    if (!strstr(path, "/container-svc.db-wal")) {
        at_path(path);
        return;
    }
    /* A commit is many writes, one right after the other. */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long micros = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
    if (micros - atomic_exchange(&last_commit, micros) > 1000)
        count();
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int rename(const char *from, const char *to) {
    REAL(rename);
    at_path(to);
    return real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    at_path(path);
    return real(path);
}

int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    at_path(path);
    return real(path, mode);
}

int ftruncate64(int file, off64_t length) {
    REAL(ftruncate64);
    at_file(file);
    return real(file, length);
}

int fsync(int file) {
    REAL(fsync);
    at_file(file);
    return real(file);
}

ssize_t write(int file, const void *bytes, size_t length) {
    REAL(write);
    at_file(file);
    return real(file, bytes, length);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at) {
    REAL(pwrite64);
    at_file(file);
    return real(file, bytes, length, at);
}
