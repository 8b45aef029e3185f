// A client resets its stream of HTTP/2, or closes the connection, while the
// application is at work.
//
// nginx then sets the request's `c->error` at once, and with that an exchange
// may run to its end but not go on to an `error_page`, and is ended by the first
// subrequest that ends, such as a mirror's (ngx_http_finalize_request).  Over
// HTTP/1.1 a client that is gone shows when its answer is sent; so it is here:
// the error is put aside until it is.

#include "http/exchange/client_close.h"

namespace idempotency {

namespace {

// In place of ngx_http_block_reading.
void on_client_event(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    Context *context = find_context(r);

    if (c->error && context != nullptr && awaits_response(*context)) {
        c->error = 0;
        context->reset = true;
    }

    ngx_http_block_reading(r);
}

}  // namespace

void ignore_stream_reset(ngx_http_request_t *r)
{
    if (r->read_event_handler == ngx_http_block_reading) {
        r->read_event_handler = on_client_event;
    }
}

void apply_stream_reset(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (r->read_event_handler == on_client_event) {
        r->read_event_handler = ngx_http_block_reading;
    }

    if (context.reset) {
        r->connection->error = 1;
    }
}

}  // namespace idempotency
