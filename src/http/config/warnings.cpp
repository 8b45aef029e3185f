#include "http/config/warnings.h"

namespace idempotency {

namespace {

// Whether the first directive of the rewrite module is `return`.  Then nginx responds before the
// key is looked up.
bool begins_with_return(ngx_conf_t *cf)
{
    ngx_module_t *rewrite = find_module(cf->cycle, "ngx_http_rewrite_module");

    if (rewrite == nullptr) {
        return false;
    }

    // the first member of ngx_http_rewrite_loc_conf_t is the array of codes, and a code begins with
    // its function
    void **conf = static_cast<ngx_http_conf_ctx_t *>(cf->ctx)->loc_conf;
    auto *codes = *static_cast<ngx_array_t **>(conf[rewrite->ctx_index]);

    return codes != nullptr && codes->nelts >= sizeof(ngx_http_script_return_code_t)
           && *static_cast<ngx_http_script_code_pt *>(codes->elts) == ngx_http_script_return_code;
}

constexpr struct {
    const char *module;
    const char *directive;
} kRequestBuffering[] = {
    {"ngx_http_proxy_module", "proxy_request_buffering"},
    {"ngx_http_fastcgi_module", "fastcgi_request_buffering"},
    {"ngx_http_uwsgi_module", "uwsgi_request_buffering"},
    {"ngx_http_scgi_module", "scgi_request_buffering"},
};

// The directive that is `off` where the location has an upstream to which the body would be sent as
// it arrives.  Null: there is none.
const char *find_streaming_directive(ngx_conf_t *cf)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    void **conf = static_cast<ngx_http_conf_ctx_t *>(cf->ctx)->loc_conf;

    for (const auto &each : kRequestBuffering) {
        ngx_module_t *module = find_module(cf->cycle, each.module);

        if (module == nullptr || core->handler == nullptr) {
            continue;
        }

        // the first member of the location configuration of these modules
        auto *upstream = static_cast<ngx_http_upstream_conf_t *>(conf[module->ctx_index]);

        if (upstream->upstream != nullptr && upstream->request_buffering == 0) {
            return each.directive;
        }
    }

    return nullptr;
}

}  // namespace

void warn_about_location(ngx_conf_t *cf, const LocationConfig &conf, bool own_store)
{
    if (conf.store == nullptr) {
        return;
    }

    if (own_store && begins_with_return(cf)) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"idempotency\" in %V:%ui has no effect beside \"return\": nginx responds "
                      "before the module sees the request",
                      &conf.store_file, conf.store_line);
    }

    const char *directive =
        conf.fingerprint_body && !conf.observe ? find_streaming_directive(cf) : nullptr;

    if (directive != nullptr) {
        ngx_log_error(
            NGX_LOG_WARN, cf->log, 0,
            "\"idempotency\" in %V:%ui reads the request body first, in spite of \"%s off\": with "
            "\"body=off\" in \"idempotency_fingerprint\" the body is sent as it arrives",
            &conf.store_file, conf.store_line, directive);
    }
}

}  // namespace idempotency
