#include "http/answer/early_hints.h"

#include "http/exchange/context.h"

namespace idempotency {

#if (nginx_version >= 1029000)

namespace {

ngx_http_output_header_filter_pt next_early_hints_filter;

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_early_hints(ngx_http_request_t *r)
{
    Context *context = r == r->main ? find_context(r) : nullptr;

    // nginx must send nothing on a stream that was reset
    if (context != nullptr && context->stream_reset) {
        return NGX_OK;
    }

    ngx_int_t rc = next_early_hints_filter(r);

    if (rc != NGX_ERROR || !r->connection->error) {
        return rc;
    }

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
