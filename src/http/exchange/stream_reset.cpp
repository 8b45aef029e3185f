// The client resets its HTTP/2 stream, or closes the connection, while the exchange runs.
//
// nginx then sets `c->error` of the request at once.  With that error the exchange runs to
// its end, but an `error_page` does not, and the end of any subrequest (such as one of
// `mirror`) ends the request (ngx_http_finalize_request).  Over HTTP/1.1 nginx notices a
// closed connection only when it sends the response.  This file does the same for HTTP/2:
// the error is cleared until the response is sent.

#include "http/exchange/client_close.h"
#include "http/exchange/guard.h"

namespace idempotency {

namespace {

// In place of ngx_http_block_reading.
void on_client_event(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    Context *context = find_context(r);

    if (c->error && context != nullptr && awaits_response(*context)) {
        // without its body, the request can't be completed
        if (is_shutdown(r) || is_body_missing(r)) {
            terminate_request(r);
            return;
        }

        c->error = 0;
        context->stream_reset = true;
    }

    ngx_http_block_reading(r);
}

}  // namespace

// ngx_shutdown_timer_handler sets `error` of the connection, which has not ended.  A client that
// breaks the protocol while the worker quits looks the same.
bool is_shutdown([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    if (!ngx_exiting || r->stream == nullptr) {
        return false;
    }

    const ngx_connection_t *c = r->stream->connection->connection;

    return c->error && !c->read->eof && !c->read->error && !c->read->pending_eof
           && !c->write->error;
#else
    return false;
#endif
}

// As ngx_http_request_handler: the cleanup of the upstream finalizes the request, which must not
// free it yet.
void terminate_request(ngx_http_request_t *r)
{
    r->main->count++;
    ngx_http_finalize_request(r, NGX_HTTP_CLIENT_CLOSED_REQUEST);
}

void ignore_stream_reset(ngx_http_request_t *r)
{
    Context *context = find_context(r);

    if (context == nullptr || !awaits_response(*context)) {
        return;
    }

    // an unbuffered body has another handler, also when all of it was read
    // (ngx_http_upstream_send_request_body)
    if (r->read_event_handler == ngx_http_block_reading
        || (r->request_body_no_buffering && !r->reading_body))
    {
        r->read_event_handler = on_client_event;
    }
}

void apply_stream_reset(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (r->read_event_handler == on_client_event) {
        r->read_event_handler = ngx_http_block_reading;
    }

    if (context.stream_reset) {
        r->connection->error = 1;
    }
}

}  // namespace idempotency
