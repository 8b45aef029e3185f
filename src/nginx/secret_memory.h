// Memory that is not in the core dump of a process.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// For passwords and keys.  It lives as long as `pool`; then it is wiped.  Null: no memory.
void *allocate_secret(ngx_pool_t *pool, size_t size) noexcept;

// A copy of `text` in such memory; `data` is null: no memory.
ngx_str_t copy_secret(ngx_pool_t *pool, const ngx_str_t &text) noexcept;

// Of `memory`, all whole pages.
void exclude_from_core_dump(void *memory, size_t size) noexcept;

// Overwrites an argument of the directive that is read now, and the copies that nginx has of it:
// what it has read of the configuration file, and the text for `nginx -T` (which a binary with
// debugging support always keeps), unless this is `nginx -T`.
void wipe_argument(ngx_conf_t *cf, ngx_str_t &argument) noexcept;

}  // namespace idempotency
