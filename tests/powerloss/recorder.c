/*
 * Preloaded into a process that uses a store: appends to the file named by POWERLOSS_LOG, in the order in which they
 * returned, all calls that alter or sync data.mdb. Files are known by the end of their path, which is looked up on every
 * call: descriptors are reused.
 *
 * A record: op, whether the descriptor writes through (O_DSYNC), length, offset, then the bytes of a write.
 *   W write   S sync   T truncate   M msync   D sync of a directory   A write to a file named "acknowledged"
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER; /* held over the call itself: the log's order is the disk's */
static int log_fd = -1;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int fd, const void *data, size_t size) {
    REAL(write);
    return real(fd, data, size);
}

static int ends_with(int fd, const char *name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t end = strlen(name);
    return length >= (ssize_t)end && memcmp(path + length - end, name, end) == 0;
}

static int is_data(int fd) { return fd > 2 && fd != log_fd && ends_with(fd, "/data.mdb"); }

static void say(const void *data, size_t size) {
    if (plain_write(log_fd, data, size) != (ssize_t)size) abort(); /* half a record: the log would be nonsense */
}

static void record(char op, int fd, const void *data, uint64_t size, uint64_t offset) {
    const char *path = getenv("POWERLOSS_LOG");
    if (!path) return;
    if (log_fd < 0) log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log_fd < 0) abort();
    unsigned char head[18];
    head[0] = op;
    head[1] = fd >= 0 && (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
    memcpy(head + 2, &size, 8);
    memcpy(head + 10, &offset, 8);
    say(head, sizeof head);
    if (data) say(data, size);
}

static void record_pieces(int fd, const struct iovec *pieces, int count, ssize_t written, uint64_t offset) {
    for (int i = 0; i < count && written > 0; i++) {
        size_t size = pieces[i].iov_len < (size_t)written ? pieces[i].iov_len : (size_t)written;
        record('W', fd, pieces[i].iov_base, size, offset);
        offset += size;
        written -= size;
    }
}

#define ORDERED(type, call, record_it) \
    pthread_mutex_lock(&order); \
    type result = call; \
    record_it; \
    pthread_mutex_unlock(&order); \
    return result

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite);
    if (!is_data(fd)) return real(fd, data, size, offset);
    ORDERED(ssize_t, real(fd, data, size, offset), if (result > 0) record('W', fd, data, result, offset));
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
    REAL(pwritev);
    if (!is_data(fd)) return real(fd, pieces, count, offset);
    ORDERED(ssize_t, real(fd, pieces, count, offset), record_pieces(fd, pieces, count, result, offset));
}

ssize_t write(int fd, const void *data, size_t size) {
    if (fd > 2 && fd != log_fd && ends_with(fd, "/acknowledged")) {
        ORDERED(ssize_t, plain_write(fd, data, size), record('A', fd, data, size, 0));
    }
    if (!is_data(fd)) return plain_write(fd, data, size);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ORDERED(ssize_t, plain_write(fd, data, size), if (result > 0) record('W', fd, data, result, offset));
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(writev);
    if (!is_data(fd)) return real(fd, pieces, count);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ORDERED(ssize_t, real(fd, pieces, count), record_pieces(fd, pieces, count, result, offset));
}

static char synced(int fd) {
    struct stat about;
    if (is_data(fd)) return 'S';
    return fstat(fd, &about) == 0 && S_ISDIR(about.st_mode) ? 'D' : 0;
}

static void record_sync(int fd, int result) {
    char op = result == 0 ? synced(fd) : 0;
    char link[64], path[4096];
    if (op == 'S') record('S', fd, NULL, 0, 0);
    if (op == 'D') {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path);
        record('D', fd, path, length, 0);
    }
}

int fsync(int fd) {
    REAL(fsync);
    ORDERED(int, real(fd), record_sync(fd, result));
}

int fdatasync(int fd) {
    REAL(fdatasync);
    ORDERED(int, real(fd), record_sync(fd, result));
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    if (!is_data(fd)) return real(fd, size);
    ORDERED(int, real(fd, size), if (result == 0) record('T', fd, NULL, size, 0));
}

int msync(void *start, size_t size, int flags) {
    REAL(msync);
    ORDERED(int, real(start, size, flags), record('M', -1, NULL, 0, 0));
}
