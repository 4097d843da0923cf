/* Lets one system call on one folder go wrong: the tests preload it (test_system_calls.py).

   It counts every call that the process makes on files of the folder, whoever in the process makes it, and
   lets the call number `which` after plan() fail, fail although it took effect, or fail half-way (a write), or
   kills the process before it or in the middle of it. Syncs do nothing: nobody cuts the power here. The calls
   are those of glibc that Python and SQLite make for a log: open, read, pread, write, pwrite, mmap, close,
   ftruncate, fsync, fdatasync, fcntl's locks, flock, access, the stat family, opendir, rename, mkdir, rmdir,
   unlink, unlinkat, fchmod. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum mode { WELL, FAILS, FAILS_AFTER, FAILS_HALF_WAY, DIES, DIES_HALF_WAY };

#define MOST 4096

const int most = MOST;

static char folder[PATH_MAX], kinds[MOST + 1]; /* of each call: 'w'rites, 'c'hanges, 'l'ocks, or 'r'eads */
static long at, count;
static enum mode planned;

void plan(const char *where, long which, int mode) {
    strncpy(folder, where, sizeof folder - 1);
    memset(kinds, 0, sizeof kinds);
    at = which, planned = mode, count = 0;
}

const char *seen(void) { return kinds; }

static int in_folder(const char *path) { return *folder && !strncmp(path, folder, strlen(folder)); }

static int of_folder(int fd) {
    char link[64], path[PATH_MAX + 1];
    if (!*folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return in_folder(path);
}

/* What shall become of this call. */
static enum mode next(int here, char kind) {
    if (!here || count == MOST) return WELL;
    kinds[count++] = kind;
    return count == at ? planned : WELL;
}

static void die(void) { kill(getpid(), SIGKILL); }

static int fails(int result) { return result ? (errno = EIO, 1) : 0; }

#define REAL(name, type, parameters) \
    static type(*real) parameters;   \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name)

/* A call without halves. */
#define CALL(type, name, parameters, arguments, here, kind, bad) \
    type name parameters {                                       \
        REAL(name, type, parameters);                            \
        enum mode mode = next(here, kind);                       \
        if (mode == DIES) die();                                 \
        if (fails(mode == FAILS)) return bad;                    \
        type result = real arguments;                            \
        return fails(mode == FAILS_AFTER) ? bad : result;        \
    }

CALL(int, rename, (const char *from, const char *to), (from, to), in_folder(from), 'c', -1)
CALL(int, mkdir, (const char *path, mode_t bits), (path, bits), in_folder(path), 'c', -1)
CALL(int, rmdir, (const char *path), (path), in_folder(path), 'c', -1)
CALL(int, unlink, (const char *path), (path), in_folder(path), 'c', -1)
CALL(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), in_folder(path) || of_folder(fd), 'c', -1)
CALL(int, fchmod, (int fd, mode_t bits), (fd, bits), of_folder(fd), 'c', -1)
CALL(int, flock, (int fd, int how), (fd, how), of_folder(fd), 'l', -1)
CALL(DIR *, opendir, (const char *path), (path), in_folder(path), 'r', NULL)
CALL(int, access, (const char *path, int how), (path, how), in_folder(path), 'r', -1)
CALL(int, stat, (const char *path, struct stat *found), (path, found), in_folder(path), 'r', -1)
CALL(int, lstat, (const char *path, struct stat *found), (path, found), in_folder(path), 'r', -1)
CALL(int, fstat, (int fd, struct stat *found), (fd, found), of_folder(fd), 'r', -1)
CALL(int, stat64, (const char *path, struct stat64 *found), (path, found), in_folder(path), 'r', -1)
CALL(int, lstat64, (const char *path, struct stat64 *found), (path, found), in_folder(path), 'r', -1)
CALL(int, fstat64, (int fd, struct stat64 *found), (fd, found), of_folder(fd), 'r', -1)
CALL(int, fstatat64, (int fd, const char *path, struct stat64 *found, int flags), (fd, path, found, flags),
     in_folder(path) || of_folder(fd), 'r', -1)
CALL(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), of_folder(fd), 'r', -1)
CALL(ssize_t, pread64, (int fd, void *to, size_t size, off64_t place), (fd, to, size, place), of_folder(fd), 'r', -1)
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), of_folder(fd), 'c', -1)
CALL(void *, mmap64, (void *place, size_t size, int how, int flags, int fd, off64_t from),
     (place, size, how, flags, fd, from), fd >= 0 && of_folder(fd), 'r', MAP_FAILED)

#define SYNC(name)                                    \
    int name(int fd) {                                \
        enum mode mode = next(of_folder(fd), 'r');    \
        if (mode == DIES) die();                      \
        return fails(mode != WELL) ? -1 : 0;          \
    }

SYNC(fsync)
SYNC(fdatasync)

/* A descriptor is gone whatever close() says. */
int close(int fd) {
    REAL(close, int, (int));
    enum mode mode = next(of_folder(fd), 'r');
    if (mode == DIES) die();
    int result = real(fd);
    return fails(mode != WELL) ? -1 : result;
}

#define WRITE(name, parameters, arguments, half)                       \
    ssize_t name parameters {                                          \
        REAL(name, ssize_t, parameters);                               \
        enum mode mode = next(of_folder(fd), 'w');                     \
        if (mode == DIES) die();                                       \
        if (fails(mode == FAILS)) return -1;                           \
        int in_part = mode == FAILS_HALF_WAY || mode == DIES_HALF_WAY; \
        ssize_t result = in_part ? real half : real arguments;         \
        if (mode > DIES) die();                                        \
        return fails(mode != WELL) ? -1 : result;                      \
    }

WRITE(write, (int fd, const void *from, size_t size), (fd, from, size), (fd, from, size / 2))
WRITE(pwrite64, (int fd, const void *from, size_t size, off64_t place), (fd, from, size, place),
      (fd, from, size / 2, place))

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        REAL(name, int, (const char *, int, ...));                        \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t bits = flags & O_CREAT ? va_arg(more, mode_t) : 0;         \
        va_end(more);                                                     \
        enum mode mode = next(in_folder(path), flags & O_CREAT ? 'c' : 'r'); \
        if (mode == DIES) die();                                          \
        if (fails(mode == FAILS)) return -1;                              \
        int result = real(path, flags, bits);                             \
        return fails(mode == FAILS_AFTER) ? -1 : result;                  \
    }

OPEN(open)
OPEN(open64)

/* Locks: of the folder's one process, and SQLite's. */
#define LOCK(name)                                                       \
    int name(int fd, int command, ...) {                                 \
        REAL(name, int, (int, int, ...));                                \
        va_list more;                                                    \
        va_start(more, command);                                         \
        void *argument = va_arg(more, void *);                           \
        va_end(more);                                                    \
        int locks = command == F_SETLK || command == F_SETLKW || command == F_GETLK; \
        enum mode mode = next(locks && of_folder(fd), 'l');              \
        if (mode == DIES) die();                                         \
        if (fails(mode == FAILS)) return -1;                             \
        int result = real(fd, command, argument);                        \
        return fails(mode == FAILS_AFTER) ? -1 : result;                 \
    }

LOCK(fcntl)
LOCK(fcntl64)
