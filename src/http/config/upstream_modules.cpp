#include "http/config/upstream_modules.h"

#include "http/config/config.h"

namespace idempotency {

namespace {

constexpr const char *kNames[kUpstreamModules] = {
    "ngx_http_proxy_module", "ngx_http_fastcgi_module", "ngx_http_uwsgi_module",
    "ngx_http_scgi_module",  "ngx_http_grpc_module",    "ngx_http_memcached_module",
};

// From locations whose upstream is known during configuration, or seen by this worker.
ngx_http_handler_pt upstream_handlers[kUpstreamModules];

}  // namespace

bool find_upstream_modules(ngx_conf_t *cf, ngx_array_t &indices)
{
    if (ngx_array_init(&indices, cf->pool, kUpstreamModules, sizeof(ngx_uint_t)) != NGX_OK) {
        return false;
    }

    for (const char *name : kNames) {
        ngx_module_t *module = find_module(cf->cycle, name);

        if (module != nullptr) {
            *static_cast<ngx_uint_t *>(ngx_array_push(&indices)) = module->ctx_index;
        }
    }

    return true;
}

void learn_upstream_handler(ngx_conf_t *cf, const ngx_array_t &indices)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    void **conf = static_cast<ngx_http_conf_ctx_t *>(cf->ctx)->loc_conf;
    auto *index = static_cast<ngx_uint_t *>(indices.elts);

    for (ngx_uint_t i = 0; i < indices.nelts && core->handler != nullptr; i++) {
        if (static_cast<ngx_http_upstream_conf_t *>(conf[index[i]])->upstream != nullptr) {
            remember_upstream_handler(core->handler);
        }
    }
}

void remember_upstream_handler(ngx_http_handler_pt handler)
{
    for (ngx_http_handler_pt &known : upstream_handlers) {
        if (known == nullptr) {
            known = handler;
        }

        if (known == handler) {
            return;
        }
    }
}

bool is_upstream_handler(ngx_http_handler_pt handler)
{
    for (ngx_http_handler_pt known : upstream_handlers) {
        if (known == handler) {
            return true;
        }
    }

    return false;
}

}  // namespace idempotency
