// How long calls to a store take: a histogram.

#pragma once

#include <cstddef>
#include <cstdint>

namespace idempotency {

// The upper bounds of the buckets, in microseconds.  The last bucket, for all that take longer,
// has none.
constexpr std::uint32_t kLatencyBounds[] = {50,     100,    250,    500,     1000,
                                            2500,   5000,   10000,  25000,   50000,
                                            100000, 250000, 500000, 1000000, 2500000};

constexpr std::size_t kLatencyBuckets = sizeof(kLatencyBounds) / sizeof(kLatencyBounds[0]) + 1;

// Kinds of calls, in the order of Call::Kind.
constexpr std::size_t kCallKinds = 4;

constexpr std::size_t latency_bucket(std::uint64_t micros)
{
    std::size_t i = 0;

    while (i < kLatencyBuckets - 1 && micros > kLatencyBounds[i]) {
        i++;
    }

    return i;
}

struct Latency {
    std::uint64_t calls = 0;                      // that were started
    std::uint64_t sum = 0;                        // microseconds of the calls that have ended
    std::uint64_t buckets[kLatencyBuckets] = {};  // calls that have ended
};

}  // namespace idempotency
