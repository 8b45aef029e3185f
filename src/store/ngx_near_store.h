// The near cache of a store in nginx's shared memory.

#pragma once

#include "store/nginx.h"

#include "store/store.h"

namespace idempotency {

// Puts a near cache of `size` bytes before `store`, in the pool of the
// configuration, which also ends it.  Null where that fails; nginx or this has
// logged why.
Store *create_near_store(ngx_conf_t *cf, const ngx_str_t &name, size_t size, void *tag,
                         Store &store) noexcept;

}  // namespace idempotency
