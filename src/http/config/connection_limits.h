// How many connections to Redis the stores may open.

#pragma once

#include "http/config/config.h"

namespace idempotency {

// When the whole configuration has been read.  Warns if the stores may need more connections
// than they get.
void limit_redis_connections(ngx_cycle_t *cycle, const MainConfig &main);

}  // namespace idempotency
