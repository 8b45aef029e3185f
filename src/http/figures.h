// What is counted of each store, and how it is told.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "store/store.h"

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

    late,               // results of claims that were lost
    unkept,             // answers that were delivered before they could be kept
    retries,            // of telling an outcome
    unrecorded,         // outcomes that were given up

    // calls, in the order of Call::Kind
    claims,
    settles,
    releases,

    renewals,           // of a claim each
    unavailable,        // calls that ended so
    full,
};

constexpr std::size_t kCounts = static_cast<std::size_t>(Count::full) + 1;

// One store at one moment.
struct StoreStatus {
    std::string_view name;
    std::uint64_t counts[kCounts];
    StoreFigures now;
};

enum class StatusFormat { json, prometheus, html };

// Writes as much of the text as fits into `room` bytes at `out`; gives its whole
// length.  Names of stores may hold any bytes.
std::size_t format_status(StatusFormat format, const StoreStatus *stores, std::size_t count,
                          char *out, std::size_t room);

}  // namespace idempotency
