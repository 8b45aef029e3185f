// Keeps an exchange running when its client closes the connection or resets the
// stream before the response is sent.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// HTTP/2 (stream_reset.cpp): nginx sets `error` of the connection when the stream is
// reset.  `ignore_stream_reset` clears the error while the exchange runs;
// `apply_stream_reset` sets it again.  Call that just before the response is sent.
void ignore_stream_reset(ngx_http_request_t *r);
void apply_stream_reset(Context &context);

// Whether HTTP/2 closes the connection because `worker_shutdown_timeout` is over.  Then the request
// must end, as it does over HTTP/1.1.
bool is_shutdown(ngx_http_request_t *r);

// Ends a request, and its exchange with the upstream, because its client has disconnected.
void terminate_request(ngx_http_request_t *r);

// HTTP/3 (quic.cpp).  It is never undone: a QUIC stream has one request only.
void ignore_quic_close(ngx_http_request_t *r);

}  // namespace idempotency
