/* A disk that fails when it is told to: libc's file calls, also those of LMDB and Arrow.
 *
 * Loaded with LD_PRELOAD (tests/survival/steps.py).  Until `disk_arm` names a folder, calls go
 * through.  After that each call on a file below it that changes something is numbered from 0,
 * and the one asked for is met by a fault; `disk_calls` says how many there were.
 *
 * A short write gives back that half of the bytes were written, as a full disk does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 1, KILL_AFTER, SHORT, EIO_, ENOSPC_, LATE_EIO };

static char folder[PATH_MAX];
static long fault_at, fault_mode, seen;
static char trace[1 << 16];
static size_t traced;

void disk_arm(const char *below, long at, long mode) {
    strncpy(folder, below, sizeof folder - 1);
    fault_at = at, fault_mode = mode, traced = 0;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
}
long disk_calls(void) { return seen; }
const char *disk_trace(void) { return trace; }

static int below(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}
static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}
/* Which fault meets this call; 0 for none. */
static int met(int ours, const char *name) {
    if (!ours) return 0;
    long number = __atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST);
    if (traced + strlen(name) + 2 < sizeof trace)
        traced += sprintf(trace + traced, "%s ", name);
    return number == fault_at ? (int)fault_mode : 0;
}
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define CALL(type, name, params, args, ours, half)                                    \
    type name params {                                                                \
        static type (*real) params;                                                   \
        if (!real) real = (type (*) params)dlsym(RTLD_NEXT, #name);                   \
        int saved = errno, mode = met(ours, #name);                                   \
        errno = saved;                                                                \
        if (mode == 0) return real args;                                              \
        if (mode == KILL) die();                                                      \
        if (mode == SHORT) { type n = half; return n; }                               \
        if (mode == KILL_AFTER || mode == LATE_EIO) real args;                        \
        if (mode == KILL_AFTER) die();                                                \
        errno = mode == ENOSPC_ ? ENOSPC : EIO;                                       \
        return (type)-1;                                                              \
    }

#define NO_HALF ((void)(errno = ENOSPC), -1)

CALL(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), below_fd(fd),
     real(fd, data, size / 2))
CALL(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at),
     below_fd(fd), real(fd, data, size / 2, at))
CALL(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at),
     (fd, data, size, at), below_fd(fd), real(fd, data, size / 2, at))
CALL(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count),
     below_fd(fd), real(fd, parts, count > 1 ? count / 2 : 1))
CALL(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at),
     (fd, parts, count, at), below_fd(fd), real(fd, parts, count > 1 ? count / 2 : 1, at))
CALL(ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at),
     (fd, parts, count, at), below_fd(fd), real(fd, parts, count > 1 ? count / 2 : 1, at))
CALL(int, fsync, (int fd), (fd), below_fd(fd), NO_HALF)
CALL(int, fdatasync, (int fd), (fd), below_fd(fd), NO_HALF)
CALL(int, ftruncate, (int fd, off_t size), (fd, size), below_fd(fd), NO_HALF)
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), below_fd(fd), NO_HALF)
CALL(int, rename, (const char *a, const char *b), (a, b), below(b), NO_HALF)
CALL(int, link, (const char *a, const char *b), (a, b), below(b), NO_HALF)
CALL(int, unlink, (const char *path), (path), below(path), NO_HALF)
/* To open a file is to change something where it makes one. */
#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        static int (*real)(const char *, int, mode_t);                                \
        if (!real) real = (int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, #name);\
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t rights = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                   \
        va_end(rest);                                                                 \
        int makes = flags & O_CREAT && below(path) && access(path, F_OK) != 0;        \
        int saved = errno, mode = met(makes, #name);                                  \
        errno = saved;                                                                \
        if (mode == 0) return real(path, flags, rights);                              \
        if (mode == KILL) die();                                                      \
        if (mode == KILL_AFTER || mode == LATE_EIO) {                                 \
            int fd = real(path, flags, rights);                                       \
            if (mode == KILL_AFTER) die();                                            \
            if (fd >= 0) close(fd);                                                   \
        }                                                                             \
        errno = mode == ENOSPC_ ? ENOSPC : EIO;                                       \
        return -1;                                                                    \
    }
OPEN(open)
OPEN(open64)
CALL(int, mkdir, (const char *path, mode_t rights), (path, rights), below(path), NO_HALF)
