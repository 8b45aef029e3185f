// The store that a block asks for.

#include "http/store_options.h"
#include "store/ngx_memory_store.h"
#include "store/ngx_redis_store.h"

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

// What stands in the URL and in a directive, too; null: nothing.
const char *given_twice(const StoreOptions &given, const RedisOptions &options)
{
    if (given.user.len > 0 && options.user.len > 0) {
        return "user";
    }
    if (given.password.len > 0 && options.password.len > 0) {
        return "password";
    }
    if (given.database >= 0 && options.has_database) {
        return "database";
    }

    return nullptr;
}

// The directives, over what the URL and the defaults say.
void apply(const StoreOptions &given, RedisOptions &options)
{
    if (given.user.len > 0) {
        options.user = given.user;
    }
    if (given.password.len > 0) {
        options.password = given.password;
    }
    if (given.prefix.len > 0) {
        options.prefix = given.prefix;
    }
    if (given.database >= 0) {
        options.database = static_cast<ngx_uint_t>(given.database);
    }
    if (given.connections > 0) {
        options.connections = static_cast<ngx_uint_t>(given.connections);
    }
    if (given.connect_timeout > 0) {
        options.connect_timeout = static_cast<ngx_msec_t>(given.connect_timeout);
    }
    if (given.timeout > 0) {
        options.timeout = static_cast<ngx_msec_t>(given.timeout);
    }
}

Store *create_redis(ngx_conf_t *cf, StoreOptions &given)
{
    RedisOptions options;
    const char *fault = read_redis_url(cf, given.url, options);

    if (fault != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid URL in \"redis\" of store \"%V\": %s%s%V",
                           &given.name, fault, options.name.len > 0 ? ", " : "", &options.name);
        return nullptr;
    }

    const char *twice = given_twice(given, options);

    if (twice != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%s\" of store \"%V\" is given twice: name it in the URL or in a "
                           "directive", twice, &given.name);
        return nullptr;
    }

    apply(given, options);

    if (options.user.len > 0 && options.password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"user\" of store \"%V\" has no password: give one with \"password\", "
                           "\"password_file\" or in the URL", &given.name);
        return nullptr;
    }

    return create_redis_store(cf->pool, cf->log, options);
}

}  // namespace

Store *create_store(ngx_conf_t *cf, StoreOptions &given)
{
    if ((given.memory == 0) == (given.url.len == 0)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in store \"%V\": it needs exactly one of \"memory SIZE\" and "
                           "\"redis URL\"", given.memory == 0 ? "no engine" : "two engines",
                           &given.name);
        return nullptr;
    }

    return given.memory != 0 ? create_memory_store(cf, given) : create_redis(cf, given);
}

}  // namespace idempotency
