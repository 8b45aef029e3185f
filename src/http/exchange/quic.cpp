// A client closes its QUIC connection: what it has asked for goes on.

#include "http/exchange/client_close.h"

namespace idempotency {

// --with-compat: this module may be built without HTTP/3 for an nginx that has it
#if (nginx_version >= 1025000 && (NGX_QUIC || NGX_COMPAT))

namespace {

// nginx's ngx_http_request_handler, which no header declares.
ngx_event_handler_pt request_handler;

// ngx_quic_close_streams marks a stream so, each time it comes by.  A worker that
// has to end (ngx_shutdown_timer_handler) closes without the error.
bool is_closed_by_quic(const ngx_connection_t *c) { return c->close && c->write->error; }

// nginx's ngx_event_handler_pt, in place of ngx_http_request_handler, which ends a
// request whose connection is to close, whatever it waits for.  The exchange learns of
// it as over HTTP/1.1: when it writes, or where it looks out for it.
void on_read(ngx_event_t *event)
{
    auto *c = static_cast<ngx_connection_t *>(event->data);

    if (is_closed_by_quic(c)) {
        c->close = 0;
        c->write->error = 0;

        // an answer that goes on waits for its client no more
        ngx_post_event(c->write, &ngx_posted_events);
    }

    request_handler(event);
}

}  // namespace

// A stream has one request, so it is never undone.
void ignore_quic_close(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;

    if (c->quic != nullptr && c->read->handler != on_read) {
        request_handler = c->read->handler;
        c->read->handler = on_read;
    }
}

#else

void ignore_quic_close(ngx_http_request_t *) {}

#endif

}  // namespace idempotency
