// The figures of all stores, as JSON, in Prometheus' text format and as HTML.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/store.h"
#include "http/metrics/counts.h"

namespace idempotency {

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
