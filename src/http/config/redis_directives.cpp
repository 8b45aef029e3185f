#include "http/config/redis_directives.h"

#include "http/config/store_arguments.h"
#include "nginx/secret_memory.h"

namespace idempotency {

char *read_urls(ngx_conf_t *cf, StoreOptions &options)
{
    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (arguments(cf)[i].len == 0) {
            return reject_argument(cf, i, "it must be a URL, such as redis://127.0.0.1:6379/0");
        }

        ngx_str_t &given = arguments(cf)[i];
        ngx_str_t url = given;

        // it may have a password
        if (view(given).find('@') != std::string_view::npos) {
            url = copy_secret(cf->pool, given);
            wipe_argument(cf, given);
        }

        if (url.data == nullptr || append_text(options.urls, url) != NGX_CONF_OK) {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

char *read_database(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.database, 0, 65535, "it must be a number from 0 to 65535");
}

char *read_connections(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.connections, 1, 64, "it must be a number from 1 to 64");
}

char *read_connect_timeout(ngx_conf_t *cf, StoreOptions &options)
{
    return read_time(cf, 1, options.connect_timeout);
}

char *read_timeout(ngx_conf_t *cf, StoreOptions &options)
{
    return read_time(cf, 1, options.timeout);
}

char *read_prefix(ngx_conf_t *cf, StoreOptions &options)
{
    options.prefix = arguments(cf)[1];

    return options.prefix.len > 0 && options.prefix.len <= 128
               ? NGX_CONF_OK
               : reject_argument(cf, 1, "it must have 1 to 128 characters");
}

char *read_wait_replicas(ngx_conf_t *cf, StoreOptions &options)
{
    if (equals(arguments(cf)[1], "off")) {
        return cf->args->nelts == 2 ? ok()
                                    : reject_argument(cf, 2, "\"off\" must be the only parameter");
    }

    if (cf->args->nelts != 3) {
        return reject_argument(cf, 1,
                               "it must be a number of replicas and a time, such as \"1 100ms\", "
                               "or \"off\"");
    }

    char *result = read_number(cf, options.replicas, 1, 64, "it must be a number from 1 to 64");

    return result == NGX_CONF_OK ? read_time(cf, 2, options.replica_wait) : result;
}

}  // namespace idempotency
