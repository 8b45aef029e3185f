/*
 * Preloaded into an nginx by out_of_memory.t: one allocation of one process fails, see fault.h.
 */

#include "fault.h"

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) { return fails(ENOMEM) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size)
{
    return fails(ENOMEM) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) { return fails(ENOMEM) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size)
{
    return fails(ENOMEM) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = fails(ENOMEM) ? NULL : __libc_memalign(alignment, size);

    if (memory == NULL) {
        return ENOMEM;
    }

    *out = memory;
    return 0;
}
