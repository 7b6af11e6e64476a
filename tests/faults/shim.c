/* Counts the file events of a command, and disturbs one of them. Loaded with LD_PRELOAD on Linux.

An event is a call that changes what is on disk below a folder: a file that is opened for writing,
a write, a flush, a rename, a removal. All processes of the command share one counter. What the C
library writes by itself, such as the buffer of a FILE, is not seen.

Environment variables, read when the library is loaded and in each call of faults_arm():

FAULTS_FOLDER   absolute path; events below it are counted
FAULTS_STATE    file of at least 64 bytes that holds the shared state, see struct state
FAULTS_LOG      file to which "PROCESS NUMBER EVENT PATH" is added for each event; may be absent
FAULTS_AT       number of the event that is disturbed, the first is 1; 0 disturbs none
FAULTS_ACTION   what happens before that event:
    kill        SIGKILL to the process group
    kill-child  SIGKILL to this process alone, unless it leads the process group
    int, term   SIGINT or SIGTERM to the process group; the event then takes place
    stop        SIGSTOP to the process group; the event takes place after SIGCONT
    eio, eacces this event fails with EIO or EACCES
    enospc      this event and all later ones that need space fail with ENOSPC
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the file FAULTS_STATE, which every process of the command maps. */
struct state {
    _Atomic uint64_t events; /* number of events so far */
    _Atomic uint64_t fired;  /* 1 when the chosen event has been disturbed */
    _Atomic uint64_t full;   /* 1 when nothing that needs space succeeds any more */
};

enum need { NO_SPACE, SPACE };

static struct state *state;
static char folder[PATH_MAX];
static char log_path[PATH_MAX];
static char action[16];
static uint64_t chosen;

static void copy_variable(const char *name, char *target, size_t size)
{
    const char *value = getenv(name);
    snprintf(target, size, "%s", value ? value : "");
}

/* Reads the environment again. A process that changes its own environment calls it. */
__attribute__((constructor)) void faults_arm(void)
{
    char path[PATH_MAX], at[32];
    copy_variable("FAULTS_FOLDER", folder, sizeof folder);
    copy_variable("FAULTS_LOG", log_path, sizeof log_path);
    copy_variable("FAULTS_ACTION", action, sizeof action);
    copy_variable("FAULTS_AT", at, sizeof at);
    copy_variable("FAULTS_STATE", path, sizeof path);
    chosen = strtoull(at, NULL, 10);
    state = NULL;
    if (!*folder || !*path)
        return;
    /* raw system calls, because open is replaced below */
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (mapped != MAP_FAILED)
        state = mapped;
}

static void link_of(const char *entry, char *found)
{
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, entry, found, PATH_MAX - 1);
    found[length < 0 ? 0 : length] = 0;
}

static void path_of_file(int file, char *found)
{
    char entry[64];
    snprintf(entry, sizeof entry, "/proc/self/fd/%d", file);
    link_of(entry, found);
}

/* Finds the absolute path of a path that may be relative to the folder of an open file. */
static void path_at(int directory, const char *path, char *found)
{
    char begin[PATH_MAX] = "";
    if (path[0] != '/') {
        if (directory == AT_FDCWD)
            link_of("/proc/self/cwd", begin);
        else
            path_of_file(directory, begin);
    }
    while (path[0] == '.' && path[1] == '/')
        path += 2;
    if (snprintf(found, PATH_MAX, "%s%s%s", begin, *begin ? "/" : "", path) >= PATH_MAX)
        found[0] = 0;
}

static int is_watched(const char *path)
{
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static void add_to_log(uint64_t number, const char *event, const char *path)
{
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%d %llu %s %s\n", (int)getpid(),
                          (unsigned long long)number, event, path);
    int file = (int)syscall(SYS_openat, AT_FDCWD, log_path,
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    syscall(SYS_write, file, line, (size_t)length);
    syscall(SYS_close, file);
}

static int error_at_chosen(void)
{
    if (!strcmp(action, "kill-child") && getpid() == getpgrp())
        return 0;
    atomic_store(&state->fired, 1);
    if (!strcmp(action, "kill"))
        kill(0, SIGKILL);
    else if (!strcmp(action, "kill-child"))
        kill(getpid(), SIGKILL);
    else if (!strcmp(action, "int"))
        kill(0, SIGINT);
    else if (!strcmp(action, "term"))
        kill(0, SIGTERM);
    else if (!strcmp(action, "stop"))
        kill(0, SIGSTOP);
    else if (!strcmp(action, "enospc"))
        atomic_store(&state->full, 1);
    else if (!strcmp(action, "eio"))
        return EIO;
    else if (!strcmp(action, "eacces"))
        return EACCES;
    return 0;
}

/* Counts an event. Returns 0 if it is to take place, else sets errno and returns -1. */
static int disturb(const char *event, const char *path, enum need need)
{
    if (!state || !is_watched(path))
        return 0;
    int before = errno, error = 0;
    uint64_t number = atomic_fetch_add(&state->events, 1) + 1;
    if (*log_path)
        add_to_log(number, event, path);
    if (number == chosen)
        error = error_at_chosen();
    if (need == SPACE && atomic_load(&state->full))
        error = ENOSPC;
    errno = error ? error : before;
    return error ? -1 : 0;
}

static int disturb_at(const char *event, int directory, const char *path, enum need need)
{
    char found[PATH_MAX];
    if (!state || !path)
        return 0;
    path_at(directory, path, found);
    return disturb(event, found, need);
}

static int disturb_file(const char *event, int file, enum need need)
{
    char found[PATH_MAX];
    if (!state)
        return 0;
    path_of_file(file, found);
    return disturb(event, found, need);
}

static int is_there(int directory, const char *path)
{
    return !syscall(SYS_faccessat, directory, path, F_OK);
}

/* A folder that is there already is no event: the call only says that it is there. */
static int disturb_mkdir(int directory, const char *path)
{
    if (!state || !path || is_there(directory, path))
        return 0;
    return disturb_at("mkdir", directory, path, SPACE);
}

static int disturb_open(int directory, const char *path, int flags)
{
    if (!state || !path || (flags & O_ACCMODE) == O_RDONLY)
        return 0;
    int makes = (flags & O_TMPFILE) == O_TMPFILE;
    makes |= (flags & O_CREAT) && !is_there(directory, path);
    return disturb_at(makes ? "create" : "open", directory, path, makes ? SPACE : NO_SPACE);
}

static int disturb_fopen(const char *path, const char *mode)
{
    if (!strpbrk(mode, "wa+"))
        return 0;
    return disturb_open(AT_FDCWD, path, O_WRONLY | (mode[0] == 'r' ? 0 : O_CREAT));
}

/* The function of the C library that a function below replaces. */
#define NEXT(result, name, ...)                                                                    \
    static result (*next)(__VA_ARGS__);                                                            \
    if (!next)                                                                                     \
        next = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define MODE_ARGUMENT(mode, flags)                                                                 \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list arguments;                                                                         \
        va_start(arguments, flags);                                                                \
        mode = va_arg(arguments, mode_t);                                                          \
        va_end(arguments);                                                                         \
    }

#define REPLACE_OPEN(name)                                                                         \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        MODE_ARGUMENT(mode, flags)                                                                 \
        NEXT(int, name, const char *, int, ...);                                                   \
        return disturb_open(AT_FDCWD, path, flags) ? -1 : next(path, flags, mode);                 \
    }
REPLACE_OPEN(open)
REPLACE_OPEN(open64)

#define REPLACE_OPENAT(name)                                                                       \
    int name(int directory, const char *path, int flags, ...)                                      \
    {                                                                                              \
        MODE_ARGUMENT(mode, flags)                                                                 \
        NEXT(int, name, int, const char *, int, ...);                                              \
        return disturb_open(directory, path, flags) ? -1 : next(directory, path, flags, mode);     \
    }
REPLACE_OPENAT(openat)
REPLACE_OPENAT(openat64)

#define REPLACE_CREAT(name)                                                                        \
    int name(const char *path, mode_t mode)                                                        \
    {                                                                                              \
        NEXT(int, name, const char *, mode_t);                                                     \
        return disturb_open(AT_FDCWD, path, O_WRONLY | O_CREAT) ? -1 : next(path, mode);           \
    }
REPLACE_CREAT(creat)
REPLACE_CREAT(creat64)

#define REPLACE_FOPEN(name)                                                                        \
    FILE *name(const char *path, const char *mode)                                                 \
    {                                                                                              \
        NEXT(FILE *, name, const char *, const char *);                                            \
        return disturb_fopen(path, mode) ? NULL : next(path, mode);                                \
    }
REPLACE_FOPEN(fopen)
REPLACE_FOPEN(fopen64)

ssize_t write(int file, const void *data, size_t size)
{
    NEXT(ssize_t, write, int, const void *, size_t);
    return disturb_file("write", file, SPACE) ? -1 : next(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    return disturb_file("write", file, SPACE) ? -1 : next(file, parts, count);
}

#define REPLACE_PWRITE(name, offset)                                                               \
    ssize_t name(int file, const void *data, size_t size, offset place)                            \
    {                                                                                              \
        NEXT(ssize_t, name, int, const void *, size_t, offset);                                    \
        return disturb_file("write", file, SPACE) ? -1 : next(file, data, size, place);            \
    }
REPLACE_PWRITE(pwrite, off_t)
REPLACE_PWRITE(pwrite64, off64_t)

#define REPLACE_SENDFILE(name, offset)                                                             \
    ssize_t name(int to, int from, offset *place, size_t size)                                     \
    {                                                                                              \
        NEXT(ssize_t, name, int, int, offset *, size_t);                                           \
        return disturb_file("write", to, SPACE) ? -1 : next(to, from, place, size);                \
    }
REPLACE_SENDFILE(sendfile, off_t)
REPLACE_SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *place, size_t size,
                        unsigned int flags)
{
    NEXT(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned int);
    return disturb_file("write", to, SPACE) ? -1 : next(from, start, to, place, size, flags);
}

#define REPLACE_FTRUNCATE(name, offset)                                                            \
    int name(int file, offset size)                                                                \
    {                                                                                              \
        NEXT(int, name, int, offset);                                                              \
        return disturb_file("truncate", file, SPACE) ? -1 : next(file, size);                      \
    }
REPLACE_FTRUNCATE(ftruncate, off_t)
REPLACE_FTRUNCATE(ftruncate64, off64_t)

#define REPLACE_FALLOCATE(name, offset)                                                            \
    int name(int file, int mode, offset place, offset size)                                        \
    {                                                                                              \
        NEXT(int, name, int, int, offset, offset);                                                 \
        return disturb_file("allocate", file, SPACE) ? -1 : next(file, mode, place, size);         \
    }
REPLACE_FALLOCATE(fallocate, off_t)
REPLACE_FALLOCATE(fallocate64, off64_t)

/* posix_fallocate returns the error instead of setting errno. */
#define REPLACE_POSIX_FALLOCATE(name, offset)                                                      \
    int name(int file, offset place, offset size)                                                  \
    {                                                                                              \
        NEXT(int, name, int, offset, offset);                                                      \
        return disturb_file("allocate", file, SPACE) ? errno : next(file, place, size);            \
    }
REPLACE_POSIX_FALLOCATE(posix_fallocate, off_t)
REPLACE_POSIX_FALLOCATE(posix_fallocate64, off64_t)

int fsync(int file)
{
    NEXT(int, fsync, int);
    return disturb_file("flush", file, NO_SPACE) ? -1 : next(file);
}

int fdatasync(int file)
{
    NEXT(int, fdatasync, int);
    return disturb_file("flush", file, NO_SPACE) ? -1 : next(file);
}

int rename(const char *from, const char *to)
{
    NEXT(int, rename, const char *, const char *);
    return disturb_at("rename", AT_FDCWD, to, NO_SPACE) ? -1 : next(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    NEXT(int, renameat, int, const char *, int, const char *);
    return disturb_at("rename", to_folder, to, NO_SPACE) ? -1
                                                         : next(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags)
{
    NEXT(int, renameat2, int, const char *, int, const char *, unsigned int);
    if (disturb_at("rename", to_folder, to, NO_SPACE))
        return -1;
    return next(from_folder, from, to_folder, to, flags);
}

int link(const char *from, const char *to)
{
    NEXT(int, link, const char *, const char *);
    return disturb_at("link", AT_FDCWD, to, SPACE) ? -1 : next(from, to);
}

int symlink(const char *target, const char *path)
{
    NEXT(int, symlink, const char *, const char *);
    return disturb_at("link", AT_FDCWD, path, SPACE) ? -1 : next(target, path);
}

int unlink(const char *path)
{
    NEXT(int, unlink, const char *);
    return disturb_at("remove", AT_FDCWD, path, NO_SPACE) ? -1 : next(path);
}

int unlinkat(int directory, const char *path, int flags)
{
    NEXT(int, unlinkat, int, const char *, int);
    return disturb_at("remove", directory, path, NO_SPACE) ? -1 : next(directory, path, flags);
}

int rmdir(const char *path)
{
    NEXT(int, rmdir, const char *);
    return disturb_at("remove", AT_FDCWD, path, NO_SPACE) ? -1 : next(path);
}

int mkdir(const char *path, mode_t mode)
{
    NEXT(int, mkdir, const char *, mode_t);
    return disturb_mkdir(AT_FDCWD, path) ? -1 : next(path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    NEXT(int, mkdirat, int, const char *, mode_t);
    return disturb_mkdir(directory, path) ? -1 : next(directory, path, mode);
}
