// When a question is asked again.

#pragma once

#include <cstdint>

#include "core/record.h"

namespace idempotency {

// Where nothing is wrong now and then; where there is a reason at once the
// first time, then after pauses that become longer.  All of it is partly by
// chance, so that many workers do not ask in step.  All times are milliseconds
// of any clock that never goes back.
class RedisPace {
public:
    // It has been asked at `now`.
    void asked(Millis now) noexcept;

    // How long to wait from `now` on where there is a reason to ask.
    Millis hurry(Millis now, std::uint32_t random) noexcept;

    // And where there is none.
    static Millis term(std::uint32_t random) noexcept;

private:
    Millis asked_at_ = 0;
    unsigned hurries_ = 0;  // questions in a row, each soon after the one before
};

}  // namespace idempotency
