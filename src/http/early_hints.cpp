// A 103 goes on at once; to a client that is gone it does not end the exchange.

#include "http/steps.h"

namespace idempotency {

#if (nginx_version >= 1029000)

namespace {

ngx_http_output_header_filter_pt next_early_hints_filter;

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_early_hints(ngx_http_request_t *r)
{
    ngx_int_t rc = next_early_hints_filter(r);

    if (rc != NGX_ERROR || !r->connection->error || r != r->main) {
        return rc;
    }

    Context *context = find_context(r);

    return context != nullptr && context->stage == Stage::executing ? NGX_OK : rc;
}

}  // namespace

void install_early_hints()
{
    next_early_hints_filter = ngx_http_top_early_hints_filter;
    ngx_http_top_early_hints_filter = on_early_hints;
}

#else

void install_early_hints() {}

#endif

}  // namespace idempotency
