/* Records, in order, every change that a process makes to the files below one folder, for crash images.
 *
 * Loaded with LD_PRELOAD. Environment: DECALOG_TRACE_ROOT (absolute folder), DECALOG_TRACE (file to write, outside it),
 * and for files whose path contains DECALOG_FAIL_PATH: DECALOG_FAIL_SYNC (n: the n-th sync of such a file fails, once,
 * with EIO), DECALOG_FULL_AFTER (bytes written to such files, after which every further write fails with ENOSPC),
 * DECALOG_KILL_AT (n: the process is killed by SIGKILL in the place of the n-th sync of such a file).
 *
 * A line a change, followed by `length` bytes where it carries data:
 *   O handle created path      a file or folder was opened (created: 1 if it was not there before)
 *   W handle offset length     bytes were written
 *   T handle length            the file was cut or stretched
 *   S handle                   a sync returned success
 *   E handle                   a sync failed        N handle    a write was refused
 *   M path                     a folder was made    U path      a name was removed
 *   R from NUL to              a name was changed (both in the data)
 * One lock covers the real call and its line, so the order of the lines is the order of the changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define HANDLES 4096
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1, opened = 0, handle_of[HANDLES], fragile[HANDLES];
static long syncs_left = -1, bytes_left = -1, kill_left = -1;
static const char *root, *fail_path;
static size_t root_length;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);

__attribute__((constructor)) static void start(void) {
  real_open = dlsym(RTLD_NEXT, "open");
  real_close = dlsym(RTLD_NEXT, "close");
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_mkdir = dlsym(RTLD_NEXT, "mkdir");
  root = getenv("DECALOG_TRACE_ROOT");
  const char *path = getenv("DECALOG_TRACE");
  if (!root || !path) return;
  root_length = strlen(root);
  fail_path = getenv("DECALOG_FAIL_PATH");
  if (getenv("DECALOG_FAIL_SYNC")) syncs_left = atol(getenv("DECALOG_FAIL_SYNC"));
  if (getenv("DECALOG_KILL_AT")) kill_left = atol(getenv("DECALOG_KILL_AT"));
  if (getenv("DECALOG_FULL_AFTER")) bytes_left = atol(getenv("DECALOG_FULL_AFTER"));
  trace = real_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    ssize_t done = real_write(trace, at, length);
    if (done <= 0) abort(); /* a trace with a hole would prove nothing */
    at += done;
    length -= done;
  }
}

static void line(const char *format, ...) {
  char text[5000];
  va_list values;
  va_start(values, format);
  int length = vsnprintf(text, sizeof text, format, values);
  va_end(values);
  put(text, length);
}

static int inside(const char *path) {
  return trace >= 0 && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

static int handle(int fd) { return fd >= 0 && fd < HANDLES ? handle_of[fd] : 0; }

static int open_traced(const char *path, int flags, mode_t mode) {
  if (!inside(path)) return real_open(path, flags, mode);
  pthread_mutex_lock(&gate);
  struct stat before;
  int created = (flags & O_CREAT) && stat(path, &before) != 0;
  int fd = real_open(path, flags, mode);
  if (fd >= HANDLES) abort();
  if (fd >= 0) {
    handle_of[fd] = ++opened;
    fragile[fd] = fail_path && strstr(path, fail_path) != NULL;
    line("O %d %d %s\n", opened, created, path);
    if (flags & O_TRUNC) line("T %d 0\n", opened);
  }
  pthread_mutex_unlock(&gate);
  return fd;
}

int open(const char *path, int flags, ...) {
  va_list values;
  va_start(values, flags);
  mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
  va_end(values);
  return open_traced(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list values;
  va_start(values, flags);
  mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
  va_end(values);
  return open_traced(path, flags, mode);
}

int close(int fd) {
  if (handle(fd)) handle_of[fd] = 0;
  return real_close(fd);
}

static int refused(int fd, size_t length) {
  if (bytes_left < 0 || !fragile[fd]) return 0;
  if ((size_t)bytes_left >= length) {
    bytes_left -= length;
    return 0;
  }
  bytes_left = 0;
  line("N %d\n", handle(fd));
  errno = ENOSPC;
  return 1;
}

static ssize_t write_traced(int fd, const void *data, size_t length, off_t offset, int at_end) {
  pthread_mutex_lock(&gate);
  ssize_t done = -1;
  if (!refused(fd, length)) {
    if (at_end) offset = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    done = at_end ? real_write(fd, data, length) : real_pwrite(fd, data, length, offset);
    if (done > 0) {
      line("W %d %lld %lld\n", handle(fd), (long long)offset, (long long)done);
      put(data, done);
    }
  }
  int error = errno;
  pthread_mutex_unlock(&gate);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *data, size_t length) {
  return handle(fd) ? write_traced(fd, data, length, 0, 1) : real_write(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  return handle(fd) ? write_traced(fd, data, length, offset, 0) : real_pwrite(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }

int ftruncate(int fd, off_t length) {
  if (!handle(fd)) return real_ftruncate(fd, length);
  pthread_mutex_lock(&gate);
  int failed = real_ftruncate(fd, length);
  if (!failed) line("T %d %lld\n", handle(fd), (long long)length);
  pthread_mutex_unlock(&gate);
  return failed;
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int sync_traced(int fd, int (*real)(int)) {
  if (!handle(fd)) return real(fd);
  pthread_mutex_lock(&gate);
  int failed = 0, error = 0;
  if (fragile[fd] && kill_left > 0 && --kill_left == 0) kill(getpid(), SIGKILL);
  if (fragile[fd] && syncs_left > 0 && --syncs_left == 0) {
    failed = -1;
    error = EIO;
  } else {
    failed = real(fd);
    error = errno;
  }
  line("%c %d\n", failed ? 'E' : 'S', handle(fd));
  pthread_mutex_unlock(&gate);
  errno = error;
  return failed;
}

int fsync(int fd) { return sync_traced(fd, real_fsync); }

int fdatasync(int fd) { return sync_traced(fd, real_fdatasync); }

int rename(const char *from, const char *to) {
  if (!inside(from) && !inside(to)) return real_rename(from, to);
  pthread_mutex_lock(&gate);
  int failed = real_rename(from, to);
  if (!failed) {
    line("R %zu\n", strlen(from) + 1 + strlen(to));
    put(from, strlen(from) + 1);
    put(to, strlen(to));
  }
  pthread_mutex_unlock(&gate);
  return failed;
}

int unlink(const char *path) {
  if (!inside(path)) return real_unlink(path);
  pthread_mutex_lock(&gate);
  int failed = real_unlink(path);
  if (!failed) line("U %s\n", path);
  pthread_mutex_unlock(&gate);
  return failed;
}

int mkdir(const char *path, mode_t mode) {
  if (!inside(path)) return real_mkdir(path, mode);
  pthread_mutex_lock(&gate);
  int failed = real_mkdir(path, mode);
  if (!failed) line("M %s\n", path);
  pthread_mutex_unlock(&gate);
  return failed;
}
