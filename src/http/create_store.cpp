// The store that a block asks for.

#include "http/store_options.h"
#include "store/ngx_memory_store.h"
#include "store/ngx_near_store.h"
#include "store/ngx_redis_store.h"
#include "store/ngx_redis_tls.h"

namespace idempotency {

namespace {

Store *create_memory_store(ngx_conf_t *cf, StoreOptions &given)
{
    if (given.redis_only != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%s\" in store \"%V\" goes with \"redis\", not with \"memory\"",
                           given.redis_only, &given.name);
        return nullptr;
    }

    return MemoryStore::create(cf, &given.name, static_cast<size_t>(given.memory),
                               &ngx_http_idempotency_module);
}

Store *create_redis(ngx_conf_t *cf, StoreOptions &given)
{
    RedisOptions options;

    if (!gather_redis_options(cf, given, options)) {
        return nullptr;
    }

    if (options.tls != nullptr) {
        options.tls_context = create_redis_tls(cf, *options.tls, given.name);

        if (options.tls_context == nullptr) {
            return nullptr;
        }
    }

    Store *store = create_redis_store(cf->pool, cf->log, options);

    if (store != nullptr && given.encryption_keys.nelts > 0) {
        store = seal_store(cf, given, *store);
    }

    if (store == nullptr || given.near_cache == 0) {
        return store;
    }

    return create_near_store(cf, given.name, static_cast<size_t>(given.near_cache),
                             &ngx_http_idempotency_module, *store);
}

}  // namespace

Store *create_store(ngx_conf_t *cf, StoreOptions &given)
{
    if ((given.memory == 0) == (given.urls.nelts == 0)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in store \"%V\": it needs exactly one of \"memory SIZE\" and "
                           "\"redis URL\"", given.memory == 0 ? "no engine" : "two engines",
                           &given.name);
        return nullptr;
    }

    return given.memory != 0 ? create_memory_store(cf, given) : create_redis(cf, given);
}

}  // namespace idempotency
