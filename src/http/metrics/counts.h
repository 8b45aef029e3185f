// The counters of each store.

#pragma once

#include <cstddef>

namespace idempotency {

enum class Count : unsigned {
    // requests by `$idempotency_status`, in the order of Status
    fresh,
    replayed,
    in_progress,
    reused,
    missing,
    invalid,
    unknown,
    not_kept,
    store_error,
    bypass,
    unscoped,
    quota,

    // settled claims by outcome, in the order of Settlement
    result_kept,
    result_released,
    result_unknown,
    result_not_kept,

    lost,        // claims that another request has taken over
    reclaimed,   // claims that the store had lost and that were claimed again
    late,        // outcomes of claims that were lost before
    unkept,      // responses that were delivered before they were kept
    retries,     // of recording an outcome
    unrecorded,  // outcomes that were not recorded and are not retried any more

    // calls to the store, in the order of Call::Kind
    claims,
    settles,
    releases,

    renewals,     // of leases
    unavailable,  // calls that ended with Verdict::unavailable
    full,         // calls that ended with Verdict::full
};

constexpr std::size_t kCounts = static_cast<std::size_t>(Count::full) + 1;

}  // namespace idempotency
