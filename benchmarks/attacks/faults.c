/* System calls that fail or kill at a chosen moment: preloaded, armed from Python for one folder.

   Counted are the calls that change what lies below the folder, whoever makes them (Python or libhdf5): opening for
   writing, write, pwrite, fsync, fdatasync, ftruncate, rename, unlink, mkdir, rmdir. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, ONCE, ON, KILL }; /* never; the n-th call fails; it and all later; the process ends before it */

static char root[4096];
static long at, count;
static int mode, code, told = -1;

void fault_arm(const char *folder, long n, int how, int error, int pipe) {
    snprintf(root, sizeof root, "%s", folder);
    at = n, count = 0, mode = how, code = error, told = pipe;
}

long fault_count(void) { return count; }

static ssize_t (*real_write)(int, const void *, size_t);

static void find(void *place, const char *name) { *(void **)place = dlsym(RTLD_NEXT, name); }

static void tell(const char *call, const char *path) {
    char line[4400];
    int size = snprintf(line, sizeof line, "call %s %s\n", call, path + strlen(root));
    if (!real_write) find(&real_write, "write");
    if (told >= 0 && real_write(told, line, (size_t)size) < 0) return;
}

/* Whether this call is to fail (with errno set) or, under KILL, is the last: 2 for a write that gets half of its way. */
static int due(const char *call, const char *path, int half) {
    if (!root[0] || strncmp(path, root, strlen(root))) return 0;
    long now = __sync_add_and_fetch(&count, 1);
    if (mode == COUNT || now < at || (mode != ON && now > at)) return 0;
    if (now == at) tell(call, path);
    if (mode == KILL && half) return 2;
    if (mode == KILL) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = code;
    return 1;
}

static int due_file(const char *call, int file, int half) {
    char link[64], path[4096];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return due(call, path, half);
}

#define OPEN(NAME)                                                                     \
    int NAME(const char *path, int flags, ...) {                                       \
        static int (*real)(const char *, int, ...);                                    \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;        \
        va_end(rest);                                                                  \
        if (!real) find(&real, #NAME);                                                 \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && due("open", path, 0)) return -1; \
        return real(path, flags, bits);                                                \
    }
OPEN(open)
OPEN(open64)

#define WRITE(NAME, MORE, ...)                                                             \
    ssize_t NAME(int file, const void *data, size_t size MORE) {                           \
        static ssize_t (*real)(int, const void *, size_t MORE);                            \
        if (!real) find(&real, #NAME);                                                     \
        int found = due_file("write", file, 1);                                            \
        if (found == 2) {                                                                  \
            ssize_t done = __VA_ARGS__(size / 2);                                          \
            (void)done;                                                                    \
            kill(getpid(), SIGKILL);                                                       \
            pause();                                                                       \
        }                                                                                  \
        return found ? -1 : __VA_ARGS__(size);                                             \
    }
#define COMMA_OFFSET , off_t offset
#define PLAIN(SIZE) real(file, data, SIZE)
#define PLACED(SIZE) real(file, data, SIZE, offset)
WRITE(write, , PLAIN)
WRITE(pwrite, COMMA_OFFSET, PLACED)
WRITE(pwrite64, COMMA_OFFSET, PLACED)

#define OF_FILE(NAME, MORE, CALL)                    \
    int NAME(int file MORE) {                        \
        static int (*real)(int MORE);                \
        if (!real) find(&real, #NAME);               \
        return due_file(#NAME, file, 0) ? -1 : CALL; \
    }
OF_FILE(fsync, , real(file))
OF_FILE(fdatasync, , real(file))
OF_FILE(ftruncate, COMMA_OFFSET, real(file, offset))
OF_FILE(ftruncate64, COMMA_OFFSET, real(file, offset))

#define OF_PATH(NAME, PARAMETERS, CALL)          \
    int NAME PARAMETERS {                        \
        static int(*real) PARAMETERS;            \
        if (!real) find(&real, #NAME);           \
        return due(#NAME, path, 0) ? -1 : CALL;  \
    }
OF_PATH(unlink, (const char *path), real(path))
OF_PATH(rmdir, (const char *path), real(path))
OF_PATH(mkdir, (const char *path, mode_t bits), real(path, bits))
OF_PATH(rename, (const char *path, const char *other), real(path, other))
