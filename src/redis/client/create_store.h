// Creates the store for a Redis of any topology.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "core/store.h"

namespace idempotency {

// Creates the store in `pool`, with a cleanup that destroys it.  `options` is
// copied; its strings and addresses must be valid as long as `pool`.  Null where
// there is no memory or OpenSSL has no SHA-1; the reason is logged.
Store *create_redis_store(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options) noexcept;

}  // namespace idempotency
