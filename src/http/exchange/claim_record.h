// The records that the holder of a claim writes: of an exchange, and of an observed request.

#pragma once

#include "nginx/nginx.h"

#include "core/record.h"
#include "core/store.h"
#include "http/config/config.h"

namespace idempotency {

struct ClaimFacts {
    const LocationConfig &conf;
    const Call &call;  // key and claim
    Token token;       // 0 until the claim is granted
    Millis asked_at;   // monotonic_now() when it was asked for
    const Fingerprint &fingerprint;
    Millis hold;
};

// The head of the record of an outcome.  `since` is by the store's clock: the token has the time of
// the claim in microseconds.  The clock of this host measures only the time since then.
RecordHead outcome_head(const ClaimFacts &facts, State state, Millis lifetime);

// Writes the record of the claim, for a new claim or one that the store has lost.  `out` has space for kLargestClaim bytes.  Returns its size.
std::size_t write_claim(const ClaimFacts &facts, unsigned char *out);

}  // namespace idempotency
