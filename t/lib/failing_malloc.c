/*
 * Preloaded into an nginx by out_of_memory.t: in the process that the control file names, the allocation that it names
 * fails, and none else. The file is mapped before nginx forks, so the test and all workers see the same.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

struct control {
    int32_t pid;            /* of the process that is meant; 0: of none */
    int32_t failed;         /* set once the allocation has failed */
    int64_t countdown;      /* the allocation that brings this to 0 fails */
};

static struct control *control;

static __attribute__((constructor)) void map_control(void)
{
    const char *file = getenv("FAILING_MALLOC");
    int fd = file != NULL ? open(file, O_RDWR | O_CLOEXEC) : -1;
    void *mapped = fd != -1 ? mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (fd != -1) {
        close(fd);
    }

    control = mapped != MAP_FAILED ? mapped : NULL;
}

static int fails(void)
{
    if (control == NULL || control->pid == 0 || control->pid != getpid() || --control->countdown != 0) {
        return 0;
    }

    control->failed = 1;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return fails() ? NULL : __libc_memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = fails() ? NULL : __libc_memalign(alignment, size);

    if (memory == NULL) {
        return ENOMEM;
    }

    *out = memory;
    return 0;
}
