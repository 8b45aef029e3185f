// The client closes its QUIC connection: its requests continue.

#include "http/exchange/client_close.h"

namespace idempotency {

// --with-compat: this module may be built without HTTP/3 for an nginx that has it
#if (nginx_version >= 1025000 && (NGX_QUIC || NGX_COMPAT))

namespace {

// ngx_http_request_handler, which is static in nginx.
ngx_event_handler_pt request_handler;

// ngx_quic_close_streams sets both flags each time it runs.  A worker that has to exit
// (ngx_shutdown_timer_handler) sets `close` without `error`.
bool is_closed_by_quic(const ngx_connection_t *c) { return c->close && c->write->error; }

// nginx's ngx_event_handler_pt, in place of ngx_http_request_handler, which ends a
// request whose connection has `close` set, whatever the request waits for.  Here the
// exchange notices the closed connection as over HTTP/1.1: when it writes, or in a
// handler that checks the connection.
void on_read_event(ngx_event_t *event)
{
    auto *c = static_cast<ngx_connection_t *>(event->data);

    if (is_closed_by_quic(c)) {
        c->close = 0;
        c->write->error = 0;

        // a response that is passed through must not wait for the client any more
        ngx_post_event(c->write, &ngx_posted_events);
    }

    request_handler(event);
}

}  // namespace

void ignore_quic_close(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;

    if (c->quic != nullptr && c->read->handler != on_read_event) {
        request_handler = c->read->handler;
        c->read->handler = on_read_event;
    }
}

#else

void ignore_quic_close(ngx_http_request_t *) {}

#endif

}  // namespace idempotency
