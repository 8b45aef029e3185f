/*
 * What the preloaded libraries share in which a call fails: in the process that the control file names, the call that it
 * names fails, and none else. The file is mapped before nginx forks, so the test and all workers see the same.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    int32_t pid;       /* of the process that is meant; 0: of none */
    int32_t failed;    /* set once the call has failed */
    int64_t countdown; /* the call that brings this to 0 fails */
};

static struct control *control;

static __attribute__((constructor)) void map_control(void)
{
    const char *file = getenv("FAULT_CONTROL");
    int fd = file != NULL ? open(file, O_RDWR | O_CLOEXEC) : -1;
    void *mapped = fd != -1
                       ? mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                       : MAP_FAILED;

    if (fd != -1) {
        close(fd);
    }

    control = mapped != MAP_FAILED ? mapped : NULL;
}

static inline int fails(int error)
{
    if (control == NULL || control->pid == 0 || control->pid != getpid()
        || --control->countdown != 0) {
        return 0;
    }

    control->failed = error;
    errno = error;
    return 1;
}
