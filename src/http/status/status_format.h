// Formats the metrics of all stores as JSON, in Prometheus' text format, and as HTML.
// docs/metrics.md describes them, docs/status.schema.json the JSON.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/store.h"
#include "http/metrics/metrics.h"

namespace idempotency {

// The metrics of one store at one moment.
struct StoreStatus {
    std::string_view name;
    StoreMetrics metrics;  // of all workers
    StoreFigures now;
};

// Of all stores, and of this nginx.
struct StatusPage {
    const StoreStatus *stores;
    std::size_t count;
    std::uint64_t time;  // Unix time, milliseconds
    std::string_view host;
    std::string_view server_version;
};

enum class StatusFormat { json, prometheus, html, negotiated };

// Writes at most `capacity` bytes to `out`; the rest of the text is cut off.  Returns
// the length of the whole text.  Names of stores may contain any bytes.
std::size_t format_status(StatusFormat format, const StatusPage &page, char *out,
                          std::size_t capacity);

// The format that the `Accept` headers prefer: the media type with the highest quality; of several
// with the same one, the first.  JSON if they name none.
struct FormatChoice {
    StatusFormat format = StatusFormat::json;
    unsigned quality = 0;  // in thousandths
};

// Takes the value of one `Accept` header into account.
void prefer(std::string_view accept, FormatChoice &choice);

// False if there is no format of this name.
bool parse_format(std::string_view name, StatusFormat &format);

}  // namespace idempotency
