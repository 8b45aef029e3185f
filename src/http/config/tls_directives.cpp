// TLS to Redis.

#include "http/config/redis_directives.h"
#include "http/config/store_arguments.h"

namespace idempotency {

char *read_trusted_certificate(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.trusted_certificate);
}

char *read_certificate(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.certificate);
}

// `engine:...` and similar values of nginx's ssl_certificate_key are not supported.
char *read_certificate_key(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.certificate_key);
}

char *read_tls_name(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.tls.name, "it must be the name in the certificate of the server");
}

char *read_verify(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);

    options.tls.verify = word == "on";

    return word == "on" || word == "off" ? NGX_CONF_OK
                                         : reject_argument(cf, 1, "it must be \"on\" or \"off\"");
}

char *read_protocols(ngx_conf_t *cf, StoreOptions &options)
{
    static constexpr struct {
        std::string_view name;
        ngx_uint_t bit;
    } protocols[] = {
        {"TLSv1", NGX_SSL_TLSv1},
        {"TLSv1.1", NGX_SSL_TLSv1_1},
        {"TLSv1.2", NGX_SSL_TLSv1_2},
        {"TLSv1.3", NGX_SSL_TLSv1_3},
    };

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_uint_t bit = 0;

        for (const auto &protocol : protocols) {
            if (view(arguments(cf)[i]) == protocol.name) {
                bit = protocol.bit;
            }
        }

        if (bit == 0) {
            return reject_argument(cf, i,
                                   "it must be \"TLSv1\", \"TLSv1.1\", \"TLSv1.2\" or \"TLSv1.3\"");
        }

        options.tls.protocols |= bit;
    }

    return NGX_CONF_OK;
}

}  // namespace idempotency
