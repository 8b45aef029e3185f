// Between reading the block of a store and making the store of it.

#pragma once

#include "http/config.h"

namespace idempotency {

// What the block says, until it ends.  A URL's `database` and credentials may
// come from directives too, in any order: so it is read at the block's end.
struct StoreOptions {
    ngx_str_t name;
    off_t memory;               // 0: not given
    ngx_str_t url;              // empty: not given
    ngx_str_t user;
    ngx_str_t password;
    ngx_str_t prefix;
    ngx_int_t database;         // -1: not given
    ngx_int_t connections;      // 0: not given; so are those below
    ngx_int_t connect_timeout;
    ngx_int_t timeout;
    unsigned seen;              // bits of kBlockDirectives
    const char *redis_only;     // a directive that only a Redis has
};

// Null where the options don't go together; nginx's log says why.
Store *create_store(ngx_conf_t *cf, StoreOptions &options);

}  // namespace idempotency
