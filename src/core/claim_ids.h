// Chooses the ids of claims: unique over all workers of all hosts.

#pragma once

#include "core/record.h"

namespace idempotency {

class ClaimIdSource {
public:
    // Call it once in each process, after the fork: takes 8 random bytes from OpenSSL
    // (RAND_bytes).  False if there are none.
    bool seed();

    // The random bytes, then a counter.
    ClaimId next();

private:
    std::array<unsigned char, 8> process_{};
    std::uint64_t count_ = 0;
};

}  // namespace idempotency
