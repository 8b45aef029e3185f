// The store that is a Redis, as nginx uses it.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "core/store.h"

namespace idempotency {

// Makes the store in `pool`, which also ends it: its destructor is a cleanup.
// `options` is copied; its strings and addresses live as long as `pool`.  Null
// where there is no memory or OpenSSL has no SHA-1; both are logged.
Store *create_redis_store(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options) noexcept;

}  // namespace idempotency
