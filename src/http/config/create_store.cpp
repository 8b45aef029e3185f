// Creates the store of a block `idempotency_store`.

#include <new>

#include "http/config/store_options.h"
#include "nginx/list.h"
#include "nginx/zone_segment.h"
#include "redis/client/connection_share.h"
#include "redis/client/create_store.h"
#include "redis/client/tls.h"
#include "store/memory_store.h"
#include "store/near_store.h"

namespace idempotency {

namespace {

// A reload with another size would begin with an empty store while requests of the old
// workers still run.
bool has_size_of_living_store(ngx_conf_t *cf, const StoreOptions &given)
{
    constexpr std::string_view kind = "idempotency_store ";

    for (ngx_shm_zone_t &zone : ListItems<ngx_shm_zone_t>(cf->cycle->old_cycle->shared_memory)) {
        std::string_view name = view(zone.shm.name);

        if (zone.tag == &ngx_http_idempotency_module && name.substr(0, kind.size()) == kind
            && name.substr(kind.size()) == view(given.name)
            && zone.shm.size != static_cast<size_t>(given.memory))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"memory\" of store \"%V\" can't be changed by a reload, from "
                               "%uz to %O bytes: give the store a new name, or restart nginx",
                               &given.name, zone.shm.size, given.memory);
            return false;
        }
    }

    return true;
}

Store *create_memory_store(ngx_conf_t *cf, StoreOptions &given)
{
    if (given.redis_only != nullptr) {
        ngx_conf_log_error(
            NGX_LOG_EMERG, cf, 0,
            "\"%s\" in store \"%V\" is only valid with \"redis\", not with \"memory\"",
            given.redis_only, &given.name);
        return nullptr;
    }

    if (!has_size_of_living_store(cf, given)) {
        return nullptr;
    }

    ZoneSegment *segment =
        ZoneSegment::create(cf, "idempotency_store", given.name, static_cast<size_t>(given.memory),
                            &ngx_http_idempotency_module);
    void *memory = ngx_palloc(cf->pool, sizeof(MemoryStore));

    return segment != nullptr && memory != nullptr ? new (memory) MemoryStore(*segment) : nullptr;
}

void destroy_near_store(void *store) { static_cast<NearStore *>(store)->~NearStore(); }

void add_to_digest(ngx_md5_t &md5, const ngx_str_t &text)
{
    ngx_md5_update(&md5, &text.len, sizeof(text.len));
    ngx_md5_update(&md5, text.data, text.len);
}

// A near cache belongs to one Redis: after a reload with other servers, or another database or
// prefix, its copies must not be used.  So these are part of the name of the shared memory.  The
// credentials are not: nginx logs the name, and passwords could be tried until the digest matches.
bool name_near_cache(ngx_conf_t *cf, const StoreOptions &given, const RedisOptions &redis,
                     ngx_str_t &name)
{
    ngx_md5_t md5;
    u_char digest[16];

    ngx_md5_init(&md5);
    ngx_md5_update(&md5, &redis.topology, sizeof(redis.topology));
    ngx_md5_update(&md5, &redis.database, sizeof(redis.database));
    add_to_digest(md5, redis.prefix);
    add_to_digest(md5, given.master);

    for (ngx_uint_t i = 0; i < redis.server_count; i++) {
        add_to_digest(md5, redis.servers[i].name);
    }

    ngx_md5_final(digest, &md5);

    name.data =
        static_cast<u_char *>(ngx_pnalloc(cf->pool, given.name.len + 1 + 2 * sizeof(digest)));

    if (name.data == nullptr) {
        return false;
    }

    u_char *end = ngx_sprintf(name.data, "%V ", &given.name);

    end = ngx_hex_dump(end, digest, sizeof(digest));
    name.len = static_cast<size_t>(end - name.data);
    return true;
}

Store *create_near_store(ngx_conf_t *cf, StoreOptions &given, const RedisOptions &redis,
                         Store &store)
{
    ngx_str_t name;

    if (!name_near_cache(cf, given, redis, name)) {
        return nullptr;
    }

    ZoneSegment *segment =
        ZoneSegment::create(cf, "idempotency_near_cache", name,
                            static_cast<size_t>(given.near_cache), &ngx_http_idempotency_module);
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(cf->pool, sizeof(NearStore));

    if (segment == nullptr || cleanup == nullptr) {
        return nullptr;
    }

    auto *near = new (cleanup->data) NearStore(store, *segment);

    cleanup->handler = destroy_near_store;
    return near;
}

// For each server: those for commands, one for large values, and one to check the server.  The
// nodes of a cluster are not known yet; it also needs a connection to ask for its map.
RedisConnectionShare *create_share(ngx_conf_t *cf, const RedisOptions &options)
{
    ngx_uint_t of_server = options.connections + 2;
    ngx_uint_t named = of_server;
    bool is_cluster = options.topology == RedisTopology::cluster;

    if (is_cluster) {
        named = of_server * options.server_count + 1;
    } else if (options.topology == RedisTopology::sentinel) {
        // a subscription to each sentinel, and the two queries of a search
        named += options.server_count + 2;
    }

    void *memory = ngx_palloc(cf->pool, sizeof(RedisConnectionShare));

    return memory != nullptr ? new (memory) RedisConnectionShare(is_cluster ? 0 : named, named)
                             : nullptr;
}

Store *create_redis(ngx_conf_t *cf, StoreOptions &given)
{
    RedisOptions options;

    if (!combine_redis_options(cf, given, options)) {
        return nullptr;
    }

    given.shortest_lease = options.connect_timeout + options.timeout;

    if (options.tls != nullptr) {
        RedisTls *context = create_redis_tls(cf, *options.tls, given.name);

        if (context == nullptr) {
            return nullptr;
        }

        options.tls_context = options.tls_to_servers ? context : nullptr;
        options.sentinel_tls_context = options.tls_to_sentinels ? context : nullptr;
    }

    options.share = given.redis_share = create_share(cf, options);

    if (options.share == nullptr) {
        return nullptr;
    }

    Store *store = create_redis_store(cf->pool, cf->log, options);

    if (store != nullptr && given.encryption_keys.nelts > 0) {
        store = seal_store(cf, given, *store);
    }

    if (store == nullptr || given.near_cache == 0) {
        return store;
    }

    return create_near_store(cf, given, options, *store);
}

}  // namespace

Store *create_store(ngx_conf_t *cf, StoreOptions &given)
{
    if ((given.memory == 0) == (given.urls.nelts == 0)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in store \"%V\": it must have exactly one of \"memory SIZE\" and "
                           "\"redis URL\"",
                           given.memory == 0 ? "no engine" : "two engines", &given.name);
        return nullptr;
    }

    return given.memory != 0 ? create_memory_store(cf, given) : create_redis(cf, given);
}

}  // namespace idempotency
