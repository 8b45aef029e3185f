/*
 * Preloaded into an nginx by clocks.t: its time of day is as far off as the control file says (fault.h), in seconds. It may
 * jump at any time. The monotonic clock is as it is.
 */

#define _GNU_SOURCE

#include "fault.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void) { return control != NULL ? control->countdown : 0; }

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int rc = syscall(SYS_clock_gettime, clock, now);

    if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += shift();
    }

    return rc;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int rc = syscall(SYS_gettimeofday, now, zone);

    now->tv_sec += shift();
    return rc;
}

time_t time(time_t *out)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);

    if (out != NULL) {
        *out = now.tv_sec;
    }

    return now.tv_sec;
}
