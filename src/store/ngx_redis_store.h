// The store that is a Redis, as nginx uses it.

#pragma once

#include "store/nginx.h"

#include "store/ngx_redis_connection.h"
#include "store/store.h"

namespace idempotency {

// Reads a URL of `idempotency_store` into `options`: addresses, name,
// credentials and database.  Names are resolved now, with all their addresses.
// Null, or what is wrong: it never repeats the URL, which may hold a password.
const char *read_redis_url(ngx_conf_t *cf, ngx_str_t url, RedisOptions &options) noexcept;

// Makes the store in `pool`, which also ends it: its destructor is a cleanup.
// `options` is copied; its strings and addresses live as long as `pool`.  Null
// where there is no memory or OpenSSL has no SHA-1; both are logged.
Store *create_redis_store(ngx_pool_t *pool, ngx_log_t *log, const RedisOptions &options) noexcept;

}  // namespace idempotency
