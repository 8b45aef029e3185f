#include "http/request/replay.h"

#include "http/answer/fields.h"
#include "http/answer/problem.h"

namespace idempotency {

namespace {

// The buffer points to memory of the exchange, which lives as long as the request.
ngx_buf_t *body_buffer(ngx_http_request_t *r, std::string_view body)
{
    ngx_buf_t *b = allocate<ngx_buf_t>(r->pool);

    if (b == nullptr) {
        return nullptr;
    }

    b->last_buf = 1;

    // for an empty buffer with `memory` set, the write filter logs an alert
    if (!body.empty()) {
        b->pos = b->start = reinterpret_cast<u_char *>(const_cast<char *>(body.data()));
        b->last = b->end = b->pos + body.size();
        b->memory = 1;
    }

    return b;
}

ngx_int_t send_response(ngx_http_request_t *r, std::string_view body)
{
    ngx_int_t rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    ngx_chain_t out{body_buffer(r, body), nullptr};

    return out.buf != nullptr ? ngx_http_output_filter(r, &out) : NGX_ERROR;
}

}  // namespace

ngx_int_t replay(Context &context, const Record &record)
{
    ngx_http_request_t *r = context.request;
    ngx_int_t rc = discard_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    context.stage = Stage::inactive;
    context.status = Status::replayed;

    // Conditional headers of this request don't change the replayed response; nor does a
    // Range header, since r->allow_ranges is not set.
    r->disable_not_modified = 1;

    if (restore_response(r, record) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (context.conf->replayed_header.len > 0
        && add_field(r, view(context.conf->replayed_header), "true") == nullptr)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_finalize_request(r, send_response(r, record.body));
    return NGX_DONE;
}

}  // namespace idempotency
