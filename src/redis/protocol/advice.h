// What an error of Redis says about its configuration, for the log.

#pragma once

#include <string_view>

#include "core/store.h"

namespace idempotency {

// What to do about an error reply with this text, beginning with its code; null where there is
// nothing that everybody who knows Redis would not know.
const char *advice_for_error(std::string_view text) noexcept;

// What to change at a server that replied to INFO with `info`; null where nothing is wrong.
const char *advice_for_version(std::string_view info) noexcept;
const char *advice_for_eviction(std::string_view info) noexcept;

// What the metrics show of a reply to INFO.
void read_node_info(std::string_view info, NodeInfo &out) noexcept;

// The value of a field of INFO; empty where there is none.
std::string_view info_field(std::string_view info, std::string_view name) noexcept;

}  // namespace idempotency
