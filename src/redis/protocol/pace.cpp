#include "redis/protocol/pace.h"

#include <algorithm>

namespace idempotency {

namespace {

constexpr Millis kShortestTerm = 15000;
constexpr Millis kLongestTerm = 30000;

// A failover takes seconds, and every worker asks.
constexpr Millis kShortestPause = 100;
constexpr Millis kLongestPause = 1000;
constexpr Millis kAtOnce = 10;

// After so long it is the first time again.
constexpr Millis kCalm = 3000;

Millis between(Millis least, Millis most, std::uint32_t random)
{
    return least + random % (most - least + 1);
}

}  // namespace

void RedisPace::asked(Millis now) noexcept
{
    hurries_ = now - asked_at_ < kCalm ? hurries_ + 1 : 1;
    asked_at_ = now;
}

Millis RedisPace::hurry(Millis now, std::uint32_t random) noexcept
{
    Millis passed = now - asked_at_;

    if (hurries_ == 0 || passed >= kCalm) {
        return between(0, kAtOnce, random);
    }

    Millis pause = std::min(kShortestPause << std::min(hurries_ - 1, 8u), kLongestPause);

    pause = between(pause / 2, pause, random);
    return pause > passed ? pause - passed : 0;
}

Millis RedisPace::term(std::uint32_t random) noexcept
{
    return between(kShortestTerm, kLongestTerm, random);
}

}  // namespace idempotency
