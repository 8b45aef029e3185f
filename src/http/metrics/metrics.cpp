#include "http/metrics/metrics.h"

namespace idempotency {

const char *event_name(Event event)
{
    static constexpr const char *names[] = {
        "lost",    "reclaimed", "fenced",     "unkept",  "unrecorded",
        "unknown", "not_kept",  "late_grant", "corrupt", "refused",
    };

    return names[static_cast<std::size_t>(event)];
}

}  // namespace idempotency
