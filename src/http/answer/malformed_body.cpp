// A body that is ill-formed, such as in its chunks: nginx then drops the request
// without a word to the client.  While the answer is held back there is still
// time for a 502, and a connection that fails gets one.
//
// What reads the body is set up by the upstream's module after the header has
// been sent on (`input_filter_init`), so that is where it is looked after.

#include "http/answer/malformed_body.h"

namespace idempotency {

namespace {

bool is_captured(const Context &context) { return context.stage == Stage::capturing; }

ngx_int_t read_buffered(ngx_event_pipe_t *pipe, ngx_buf_t *buffer)
{
    Context *context = find_context(static_cast<ngx_http_request_t *>(pipe->output_ctx));
    ngx_int_t rc = context->body_reader.buffered(pipe, buffer);

    if (rc == NGX_ERROR && is_captured(*context)) {
        pipe->upstream_error = 1;
        return NGX_OK;
    }

    return rc;
}

ngx_int_t read_unbuffered(void *data, ssize_t bytes)
{
    Context *context = find_context(static_cast<ngx_http_request_t *>(data));
    ngx_int_t rc = context->body_reader.unbuffered(data, bytes);

    if (rc == NGX_ERROR && is_captured(*context)) {
        context->request->upstream->error = 1;
        return NGX_OK;
    }

    return rc;
}

ngx_int_t start_reading(void *data)
{
    auto *r = static_cast<ngx_http_request_t *>(data);
    ngx_http_upstream_t *u = r->upstream;
    BodyReader &reader = find_context(r)->body_reader;
    ngx_int_t rc = reader.start(data);

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

    // with gRPC it is a context of that module's own
    if (u == nullptr || u->input_filter_ctx != r || u->input_filter_init == nullptr
        || u->input_filter_init == start_reading)
    {
        return;
    }

    context.body_reader.start = u->input_filter_init;
    u->input_filter_init = start_reading;
}

}  // namespace idempotency
