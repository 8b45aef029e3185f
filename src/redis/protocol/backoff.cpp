#include "redis/protocol/backoff.h"

#include <algorithm>

namespace idempotency {

namespace {

constexpr Millis kMinRefresh = 15000;
constexpr Millis kMaxRefresh = 30000;

// A failover takes seconds, and every worker sends its queries meanwhile.
constexpr Millis kMinRetry = 100;
constexpr Millis kMaxRetry = 1000;
constexpr Millis kMaxFirstRetry = 10;

// After so long without an attempt the delays start over.
constexpr Millis kStartOver = 3000;

Millis random_between(Millis min, Millis max, std::uint32_t random)
{
    return min + random % (max - min + 1);
}

}  // namespace

void RedisBackoff::attempted(Millis now) noexcept
{
    attempts_ = now - attempted_at_ < kStartOver ? attempts_ + 1 : 1;
    attempted_at_ = now;
}

Millis RedisBackoff::retry_delay(Millis now, std::uint32_t random) const noexcept
{
    Millis passed = now - attempted_at_;

    if (attempts_ == 0 || passed >= kStartOver) {
        return random_between(0, kMaxFirstRetry, random);
    }

    Millis delay = std::min(kMinRetry << std::min(attempts_ - 1, 8u), kMaxRetry);

    delay = random_between(delay / 2, delay, random);
    return delay > passed ? delay - passed : 0;
}

Millis RedisBackoff::refresh_delay(std::uint32_t random) noexcept
{
    return random_between(kMinRefresh, kMaxRefresh, random);
}

}  // namespace idempotency
