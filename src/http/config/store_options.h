// Between reading the block of a store and making the store of it.

#pragma once

#include "http/config/config.h"
#include "redis/client/options.h"

namespace idempotency {

// What the block says, until it ends.  Directives come in any order, and some
// of it may stand in a URL too: so it is put together at the block's end.
struct StoreOptions {
    ngx_str_t name;
    off_t memory;  // 0: not given

    ngx_array_t urls;  // of ngx_str_t
    RedisTopology topology;
    ngx_str_t master;  // as the sentinels call it
    ngx_str_t user;
    ngx_str_t password;
    ngx_str_t prefix;
    ngx_int_t database;     // -1: not given
    ngx_int_t connections;  // 0: not given; so are the times
    ngx_int_t connect_timeout;
    ngx_int_t timeout;
    ngx_int_t replicas;  // `wait_replicas`; 0: off
    ngx_int_t replica_wait;
    RedisTlsOptions tls;

    off_t near_cache;             // 0: off
    ngx_array_t encryption_keys;  // of ngx_str_t: whole paths, or `off`

    unsigned seen;           // bits of the block's directives
    const char *redis_only;  // one that only a Redis has, or null
    const char *tls_only;    // one that only TLS has, or null
};

// Reads one directive of the block; nginx's log says what is wrong.
char *read_store_directive(ngx_conf_t *cf, StoreOptions &options);

// Null where the options don't go together; nginx's log says why.
Store *create_store(ngx_conf_t *cf, StoreOptions &options);

// Puts the sealing of records before `store`.  Null where a key can't be read;
// nginx's log says why.
Store *seal_store(ngx_conf_t *cf, const StoreOptions &options, Store &store);

// What `redis` and its neighbours say, put together; false, and a line in
// nginx's log, where they don't go together.
bool gather_redis_options(ngx_conf_t *cf, StoreOptions &given, RedisOptions &options);

// A name that the system does not know is left to `resolver`, which may stand
// behind the store: this is called when all has been read.  False where there
// is none.
bool check_unknown_names(ngx_conf_t *cf, const MainConfig &main);

}  // namespace idempotency
