// The clock by which a worker measures how long something took.

#pragma once

#include <cstdint>
#include <ctime>

#include "core/record.h"

namespace idempotency {

// Milliseconds of CLOCK_MONOTONIC.  ngx_current_msec is read once in each round of the
// event loop, so it does not show that the worker was stopped within the round.
inline Millis monotonic_now()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<Millis>(now.tv_sec) * 1000 + static_cast<Millis>(now.tv_nsec) / 1000000;
}

// Microseconds of the same clock.
inline std::uint64_t monotonic_micros()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000
           + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

}  // namespace idempotency
