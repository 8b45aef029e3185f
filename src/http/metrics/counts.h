// The counters of each store.

#pragma once

#include <cstddef>

#include "core/cause.h"
#include "core/outcome.h"

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

    without_key,  // requests with a covered method, and no key

    lost,        // claims that another request has taken over
    reclaimed,   // claims that the store had lost and that were claimed again
    late,        // outcomes of claims that were lost before
    unkept,      // responses that were delivered before they were kept
    retries,     // of recording an outcome
    unrecorded,  // outcomes that were not recorded and are not retried any more
    renewed,     // leases

    kept_bytes,      // of records
    replayed_bytes,  // of records

    near_hits,
    near_misses,
    near_evictions,

    // `observe`: requests by what `$idempotency_status` would have been, in the order of Status
    observed_fresh,
    observed_replayed,
    observed_in_progress,
    observed_reused,
    observed_missing,
    observed_invalid,
    observed_unknown,
    observed_not_kept,
    observed_store_error,
    observed_bypass,
    observed_unscoped,
    observed_quota,
    observed_undecided,  // the body was not read to its end, or the request could not be observed

    // what would have become of the claims
    observed_result_kept,
    observed_result_not_kept_size,
    observed_result_not_kept_stream,
    observed_result_not_kept_word,
    observed_result_released,
    observed_result_unknown,
    observed_result_unseen,  // the client has closed the connection: the response is not known

    // requests that would have been replayed, by how their own response differs
    observed_equal,
    observed_different,
    observed_uncompared,
    observed_status_different,
    observed_fields_different,
    observed_body_different,

    // settled claims, in the order of Outcome
    first_outcome,
    last_outcome = first_outcome + kOutcomes - 1,

    // failed calls, in the order of Cause
    first_cause,
    last_cause = first_cause + kCauses - 1,
};

constexpr std::size_t kCounts = static_cast<std::size_t>(Count::last_cause) + 1;

// The counter that is `index` places behind `first`.
constexpr Count count_at(Count first, std::size_t index)
{
    return static_cast<Count>(static_cast<std::size_t>(first) + index);
}

constexpr Count count_of(Outcome outcome)
{
    return count_at(Count::first_outcome, static_cast<std::size_t>(outcome));
}

constexpr Count count_of(Cause cause)
{
    return count_at(Count::first_cause, static_cast<std::size_t>(cause));
}

}  // namespace idempotency
