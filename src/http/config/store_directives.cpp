// The directives of a block `idempotency_store`.

#include "http/config/redis_directives.h"
#include "http/config/store_arguments.h"

namespace idempotency {

namespace {

constexpr char kValidZoneSize[] =
    "it must be a size of at least 256k with a unit of k, m or g, such as 64m";
constexpr char kValidCacheSize[] =
    "it must be a size of at least 256k with a unit of k, m or g, such as 64m, or \"off\"";

char *read_memory(ngx_conf_t *cf, StoreOptions &options)
{
    return read_zone_size(cf, options.memory, kValidZoneSize);
}

char *read_near_cache(ngx_conf_t *cf, StoreOptions &options)
{
    return view(arguments(cf)[1]) == "off"
               ? ok()
               : read_zone_size(cf, options.near_cache, kValidCacheSize);
}

// `off` may stand beside files: while a store without sealed records starts to seal them, or
// stops sealing them, it has both kinds of records.
char *read_encryption_keys(ngx_conf_t *cf, StoreOptions &options)
{
    if (view(arguments(cf)[1]) == "off" && cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_str_t key = arguments(cf)[i];

        if ((view(key) != "off" && read_path(cf, i, key) != NGX_CONF_OK)
            || append_text(options.encryption_keys, key) != NGX_CONF_OK)
        {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

// The engines of a store with which a directive is valid.
enum class Engine { any, redis, redis_with_tls };

struct StoreDirective {
    const char *name;
    const char *syntax;        // of its arguments, for error messages
    ngx_uint_t max_arguments;  // at least one is required
    Engine engine;
    char *(*read)(ngx_conf_t *cf, StoreOptions &options);
};

constexpr StoreDirective kStoreDirectives[] = {
    {"memory", "SIZE", 1, Engine::any, read_memory},
    {"redis", "URL ...", NGX_CONF_MAX_ARGS, Engine::any, read_urls},
    {"topology",
     "standalone | cluster | sentinel MASTER [master_ssl=on|off] [sentinel_user=NAME] "
     "[sentinel_password_file=FILE]",
     5, Engine::redis, read_topology},
    {"user", "NAME", 1, Engine::redis, read_user},
    {"password", "TEXT", 1, Engine::redis, read_password},
    {"password_file", "FILE", 1, Engine::redis, read_password_file},
    {"database", "N", 1, Engine::redis, read_database},
    {"connections", "N", 1, Engine::redis, read_connections},
    {"connect_timeout", "TIME", 1, Engine::redis, read_connect_timeout},
    {"timeout", "TIME", 1, Engine::redis, read_timeout},
    {"ssl_trusted_certificate", "FILE", 1, Engine::redis_with_tls, read_trusted_certificate},
    {"ssl_certificate", "FILE", 1, Engine::redis_with_tls, read_certificate},
    {"ssl_certificate_key", "FILE", 1, Engine::redis_with_tls, read_certificate_key},
    {"ssl_name", "NAME", 1, Engine::redis_with_tls, read_tls_name},
    {"ssl_verify", "on | off", 1, Engine::redis_with_tls, read_verify},
    {"ssl_protocols", "[TLSv1] [TLSv1.1] [TLSv1.2] [TLSv1.3]", NGX_CONF_MAX_ARGS,
     Engine::redis_with_tls, read_protocols},
    {"prefix", "STRING", 1, Engine::redis, read_prefix},
    {"wait_replicas", "N TIME | off", 2, Engine::redis, read_wait_replicas},
    {"near_cache", "SIZE | off", 1, Engine::redis, read_near_cache},
    {"encryption_key_file", "FILE ... | off", NGX_CONF_MAX_ARGS, Engine::redis,
     read_encryption_keys},
};

constexpr std::size_t kStoreDirectiveCount = sizeof(kStoreDirectives) / sizeof(kStoreDirectives[0]);

static_assert(kStoreDirectiveCount <= 32, "StoreOptions::seen has a bit for each");

char *read_known_directive(ngx_conf_t *cf, StoreOptions &options, std::size_t number)
{
    const StoreDirective &directive = kStoreDirectives[number];
    ngx_str_t *value = arguments(cf);

    if (cf->args->nelts < 2 || cf->args->nelts - 1 > directive.max_arguments) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" of store \"%V\": it must be "
                           "\"%s %s\"",
                           &value[0], &options.name, directive.name, directive.syntax);
        return failed();
    }

    if ((options.seen >> number & 1) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate directive \"%V\" in store \"%V\"",
                           &value[0], &options.name);
        return failed();
    }

    options.seen |= 1u << number;

    if (directive.engine != Engine::any) {
        options.redis_only = directive.name;
    }

    if (directive.engine == Engine::redis_with_tls) {
        options.tls_only = directive.name;
    }

    return directive.read(cf, options);
}

}  // namespace

char *read_store_directive(ngx_conf_t *cf, StoreOptions &options)
{
    for (std::size_t i = 0; i < kStoreDirectiveCount; i++) {
        if (view(arguments(cf)[0]) == kStoreDirectives[i].name) {
            return read_known_directive(cf, options, i);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown directive \"%V\" in store \"%V\"",
                       &arguments(cf)[0], &options.name);
    return failed();
}

}  // namespace idempotency
