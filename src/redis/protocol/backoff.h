// How long to wait before a query is sent again.

#pragma once

#include <cstdint>

#include "core/record.h"

namespace idempotency {

// A query is retried with increasing delays while there is a reason to send it,
// and refreshed at long intervals where there is none.  A part of each delay is
// random, so that many workers do not send queries at the same time.  All times
// are milliseconds of any clock that never goes back.
class RedisBackoff {
public:
    // The query has been sent, or has ended, at `now`.
    void attempted(Millis now) noexcept;

    // How long to wait from `now` on where there is a reason to send the query:
    // almost nothing the first time, then longer after each attempt.  Some seconds
    // without an attempt start over.
    Millis retry_delay(Millis now, std::uint32_t random) const noexcept;

    // How long to wait where there is no reason.
    static Millis refresh_delay(std::uint32_t random) noexcept;

private:
    Millis attempted_at_ = 0;
    unsigned attempts_ = 0;  // in a row, each soon after the one before
};

}  // namespace idempotency
