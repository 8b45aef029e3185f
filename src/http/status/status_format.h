// Formats the metrics of all stores as JSON, in Prometheus' text format, and as HTML.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/store.h"
#include "http/metrics/counts.h"

namespace idempotency {

// The metrics of one store at one moment.
struct StoreStatus {
    std::string_view name;
    std::uint64_t counts[kCounts];
    StoreFigures now;
};

enum class StatusFormat { json, prometheus, html };

// Writes at most `capacity` bytes to `out`; the rest of the text is cut off.  Returns
// the length of the whole text.  Names of stores may contain any bytes.
std::size_t format_status(StatusFormat format, const StoreStatus *stores, std::size_t count,
                          char *out, std::size_t capacity);

}  // namespace idempotency
