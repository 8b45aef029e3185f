// If a response body is malformed (such as a wrong chunk size), nginx closes the connection
// to the client without a response.  While the response is held, a 502 can still be sent.
// A failed upstream connection leads to a 502, so this file sets the error flag of such a
// failure.
//
// The upstream module sets the functions that read the body (`input_filter`) in
// `input_filter_init`, after the header was sent.  So they are replaced there.

#include "http/answer/malformed_body.h"

namespace idempotency {

namespace {

bool is_held(const Context &context) { return context.stage == Stage::capturing; }

ngx_int_t read_buffered(ngx_event_pipe_t *pipe, ngx_buf_t *buffer)
{
    Context *context = find_context(static_cast<ngx_http_request_t *>(pipe->output_ctx));
    ngx_int_t rc = context->upstream_body_reader.buffered(pipe, buffer);

    if (rc == NGX_ERROR && is_held(*context)) {
        pipe->upstream_error = 1;
        return NGX_OK;
    }

    return rc;
}

ngx_int_t read_unbuffered(void *data, ssize_t bytes)
{
    Context *context = find_context(static_cast<ngx_http_request_t *>(data));
    ngx_int_t rc = context->upstream_body_reader.unbuffered(data, bytes);

    if (rc == NGX_ERROR && is_held(*context)) {
        context->request->upstream->error = 1;
        return NGX_OK;
    }

    return rc;
}

ngx_int_t start_reading(void *data)
{
    auto *r = static_cast<ngx_http_request_t *>(data);
    ngx_http_upstream_t *u = r->upstream;
    UpstreamBodyReader &reader = find_context(r)->upstream_body_reader;
    ngx_int_t rc = reader.init(data);

    if (u->pipe != nullptr) {
        reader.buffered = u->pipe->input_filter;
        u->pipe->input_filter = read_buffered;
    }

    reader.unbuffered = u->input_filter;
    u->input_filter = read_unbuffered;
    return rc;
}

}  // namespace

void watch_for_malformed_body(Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_http_upstream_t *u = r->upstream;

    // the gRPC module has its own structure in `input_filter_ctx`
    if (u == nullptr || u->input_filter_ctx != r || u->input_filter_init == nullptr
        || u->input_filter_init == start_reading)
    {
        return;
    }

    context.upstream_body_reader.init = u->input_filter_init;
    u->input_filter_init = start_reading;
}

}  // namespace idempotency
