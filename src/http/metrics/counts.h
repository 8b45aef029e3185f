// What is counted for each store.

#pragma once

#include <cstddef>

namespace idempotency {

enum class Count : unsigned {
    // requests, by their `$idempotency_status`: in the order of Status
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

    // claims, by what became of them: in the order of Settlement
    result_kept,
    result_released,
    result_unknown,
    result_not_kept,

    late,        // results of claims that were lost
    unkept,      // answers that were delivered before they could be kept
    retries,     // of telling an outcome
    unrecorded,  // outcomes that were given up

    // calls, in the order of Call::Kind
    claims,
    settles,
    releases,

    renewals,     // of a claim each
    unavailable,  // calls that ended so
    full,
};

constexpr std::size_t kCounts = static_cast<std::size_t>(Count::full) + 1;

}  // namespace idempotency
