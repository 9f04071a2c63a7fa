/* LD_PRELOAD: faults and a record of what a program does to the files below one folder.
 *
 * Counted calls: write, pwrite, writev, fsync, fdatasync, open with O_CREAT, mkdir, rename, ftruncate. Call number `fail_at` fails with
 * `error`, and, when `stay` is set, so does every counted call after it until `full` is cleared (a disk that stays full). `what` says which kind of call
 * failed first; X is the rename that begins a deletion.
 * With `only` set, only calls of that kind are counted. A failing write
 * at an odd number first writes half of its bytes, as real disks do.
 * With a log open every change is also written there, so that a power loss can be played afterwards.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    volatile int64_t calls, fail_at, error, stay, full, failed, what, only;
};

static struct control *control;
static char prefix[4096];
static size_t prefix_length;
static int log_to = -1;
static char *paths[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void shim_attach(struct control *shared, const char *folder, int log_descriptor) {
    control = shared;
    snprintf(prefix, sizeof prefix, "%s", folder);
    prefix_length = strlen(prefix);
    log_to = log_descriptor;
}

static int below(const char *path) { return prefix_length && path && !strncmp(path, prefix, prefix_length); }

static const char *of(int fd) { return fd >= 0 && fd < 4096 ? paths[fd] : NULL; }

/* The path of `name` beside the folder open as `fd`, in `room`; the name itself when it is absolute or the folder is not ours. */
static const char *beside(int fd, const char *name, char *room) {
    if (!name || name[0] == '/' || !of(fd)) return name;
    snprintf(room, 4096, "%s/%s", of(fd), name);
    return room;
}

static void put(const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    while (length) {
        ssize_t wrote = real(log_to, data, length);
        if (wrote <= 0) abort();
        data = (const char *)data + wrote;
        length -= wrote;
    }
}

static void note(char what, const char *path, const char *other, int64_t offset, const void *data, size_t length) {
    if (log_to < 0) return;
    int saved = errno;
    int64_t head[5] = {what, (int64_t)strlen(path), other ? (int64_t)strlen(other) : 0, offset, data ? (int64_t)length : 0};
    pthread_mutex_lock(&lock);
    put(head, sizeof head);
    put(path, head[1]);
    if (other) put(other, head[2]);
    if (data) put(data, length);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

void shim_mark(const char *text) { note('K', text, NULL, 0, NULL, 0); }

/* True when this call has to fail. */
static int fault(char what) {
    if (!control || (!control->full && control->only && control->only != what)) return 0;
    int64_t number = __sync_add_and_fetch(&control->calls, 1);
    if (!control->full && number != control->fail_at) return 0;
    if (number == control->fail_at && control->stay) control->full = 1;
    if (__sync_add_and_fetch(&control->failed, 1) == 1) control->what = what;
    errno = (int)control->error;
    return 1;
}

static int opened(int fd, const char *path, int flags, int is_new) {
    if (fd < 0 || fd >= 4096) return fd;
    free(paths[fd]);
    paths[fd] = below(path) ? strdup(path) : NULL;
    if (paths[fd] && is_new) note('C', path, NULL, 0, NULL, 0);
    else if (paths[fd] && (flags & O_TRUNC)) note('T', path, NULL, 0, NULL, 0);
    return fd;
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        REAL(int, #symbol, const char *, int, ...); \
        int is_new = below(path) && (flags & O_CREAT) && access(path, F_OK); \
        if (below(path) && (flags & O_CREAT) && fault('C')) return -1; \
        return opened(real(path, flags, mode), path, flags, is_new); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol) \
    int symbol(int folder, const char *name, int flags, ...) { \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        REAL(int, #symbol, int, const char *, int, ...); \
        char room[4096]; const char *path = beside(folder, name, room); \
        int is_new = below(path) && (flags & O_CREAT) && access(path, F_OK); \
        if (below(path) && (flags & O_CREAT) && fault('C')) return -1; \
        return opened(real(folder, name, flags, mode), path, flags, is_new); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < 4096 && paths[fd]) { free(paths[fd]); paths[fd] = NULL; }
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    const char *path = of(fd);
    if (!path) return real(fd, data, length);
    if (fault('W')) {
        if (control->full && control->calls == control->fail_at && control->fail_at % 2 && length > 1) length /= 2;
        else return -1;
    }
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t wrote = real(fd, data, length);
    if (wrote > 0) note('W', path, NULL, offset, data, wrote);
    return wrote;
}

#define PWRITE(symbol, type) \
    ssize_t symbol(int fd, const void *data, size_t length, type offset) { \
        REAL(ssize_t, #symbol, int, const void *, size_t, type); \
        const char *path = of(fd); \
        if (path && fault('W')) return -1; \
        ssize_t wrote = real(fd, data, length, offset); \
        if (path && wrote > 0) note('W', path, NULL, offset, data, wrote); \
        return wrote; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    const char *path = of(fd);
    if (!path) return real(fd, parts, count);
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t wrote = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (wrote < 0) return total ? total : -1;
        total += wrote;
        if ((size_t)wrote < parts[i].iov_len) break;
    }
    return total;
}

#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        const char *path = of(fd); \
        if (path && fault('S')) return -1; \
        int done = real(fd); \
        if (path && !done) note('S', path, NULL, 0, NULL, 0); \
        return done; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(symbol, type) \
    int symbol(int fd, type length) { \
        REAL(int, #symbol, int, type); \
        const char *path = of(fd); \
        if (path && fault('T')) return -1; \
        int done = real(fd, length); \
        if (path && !done) note('T', path, NULL, length, NULL, 0); \
        return done; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (below(path) && fault('D')) return -1;
    int done = real(path, mode);
    if (!done && below(path)) note('D', path, NULL, 0, NULL, 0);
    return done;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (below(from) && fault(strstr(to, "/.torn-") ? 'X' : 'R')) return -1;
    int done = real(from, to);
    if (!done && below(from)) note('R', from, to, 0, NULL, 0);
    return done;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int done = real(path);
    if (!done && below(path)) note('U', path, NULL, 0, NULL, 0);
    return done;
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    int done = real(path);
    if (!done && below(path)) note('U', path, NULL, 0, NULL, 0);
    return done;
}

int unlinkat(int folder, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char room[4096];
    const char *path = beside(folder, name, room);
    int done = real(folder, name, flags);
    if (!done && below(path)) note('U', path, NULL, 0, NULL, 0);
    return done;
}
