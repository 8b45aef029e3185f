// How a claim ends: what the application's response, or its absence, makes of the claim, and why.
// `$idempotency_outcome` and the metrics show it.

#pragma once

#include <cstddef>

namespace idempotency {

enum class Outcome : unsigned char {
    none,  // there was no claim, or its request has not ended

    kept,  // the response

    // the response was delivered; a retry gets `response_not_kept`
    not_kept_size,    // larger than `idempotency_max_body`, a record or the memory of nginx
    not_kept_store,   // the store has no memory for it, or never takes a value of this size
    not_kept_stream,  // a stream that broke off, or a response that is made of several
    not_kept_word,    // X-Accel-Idempotency: no-store

    // the key is free
    released_word,     // X-Accel-Idempotency: release
    released_status,   // `idempotency_retriable`
    released_unsent,   // no application has got the whole request
    released_policy,   // the outcome is unknown, and `idempotency_unknown release` frees the key
    released_refused,  // nginx refused the request: an access check, an unreadable body
    released_upgrade,  // 101: the connection becomes a tunnel

    unknown,  // the request was sent, and no whole response came

    // instead of what was decided
    lost,    // the store has another claim for the key, or a result
    untold,  // the store has not confirmed the outcome (yet)
};

constexpr std::size_t kOutcomes = static_cast<std::size_t>(Outcome::untold) + 1;

// What the store is asked to do with a claim.
enum class Settlement {
    keep,
    release,
    unknown,
    not_kept,
};

// `none`: a claim that was not used is released.
Settlement settlement_of(Outcome outcome);

// The value of `$idempotency_outcome`: `released` for all of `released_*`; empty for `none`.
const char *outcome_name(Outcome outcome);

// The reason alone, as a label of the metrics: `size`, `store`, `stream`, `word`, `status`,
// `unsent`, `policy`, `refused`, `upgrade`; otherwise empty.
const char *outcome_reason(Outcome outcome);

}  // namespace idempotency
