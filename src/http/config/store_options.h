// The parts of reading a block `idempotency_store` and creating its store.

#pragma once

#include "http/config/config.h"
#include "redis/client/options.h"

namespace idempotency {

// The directives of the block.  They come in any order, and some values may be in a URL
// instead, so they are combined at the end of the block.  Times are in milliseconds, sizes
// in bytes.
struct StoreOptions {
    ngx_str_t name;
    off_t memory;  // 0: not given

    ngx_array_t urls;  // of ngx_str_t
    RedisTopology topology;
    ngx_str_t master;  // its name in the configuration of the sentinels
    ngx_str_t user;
    ngx_str_t password;
    const char *password_directive;  // that has given `password`, or null
    ngx_str_t sentinel_user;
    ngx_str_t sentinel_password;
    ngx_flag_t master_ssl;  // NGX_CONF_UNSET: the same as for the sentinels
    ngx_str_t prefix;
    ngx_int_t database;     // -1: not given
    ngx_int_t connections;  // 0: not given; the same for the times
    ngx_int_t connect_timeout;
    ngx_int_t timeout;
    ngx_int_t replicas;  // `wait_replicas`; 0: off
    ngx_int_t replica_wait;
    RedisTlsOptions tls;

    off_t near_cache;             // 0: off
    ngx_array_t encryption_keys;  // of ngx_str_t: full paths, or `off`

    ngx_msec_t shortest_lease;          // set by create_store; 0: any
    RedisConnectionShare *redis_share;  // set by create_store; null: it is not Redis

    unsigned seen;           // a bit for each directive that was read
    const char *redis_only;  // the last directive that is only valid with `redis`, or null
    const char *tls_only;    // the last directive that is only valid with TLS, or null
};

// Reads one directive of the block.  NGX_CONF_OK or NGX_CONF_ERROR; an error is logged.
char *read_store_directive(ngx_conf_t *cf, StoreOptions &options);

// Creates the store.  Null on error, such as options that contradict each other; the error
// is logged.
Store *create_store(ngx_conf_t *cf, StoreOptions &options);

// Creates a store that seals records and passes them to `store`.  Null on error, such as an
// invalid key file; the error is logged.
Store *seal_store(ngx_conf_t *cf, const StoreOptions &options, Store &store);

// Combines the directives of a Redis store with the values in its URLs.  False on error,
// such as values that contradict each other; the error is logged.
bool combine_redis_options(ngx_conf_t *cf, StoreOptions &given, RedisOptions &options);

// Checks that nginx has a `resolver` for the host names that the system can't resolve.
// `resolver` may be configured after the store, so call it when the whole configuration has
// been read.  False if there is none; the error is logged.
bool check_unresolved_names(ngx_conf_t *cf, const MainConfig &main);

}  // namespace idempotency
