// Keeps an exchange running when its client closes the connection or resets the
// stream before the response is sent.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// stream_reset.cpp: HTTP/2.  `ignore_stream_reset` delays the error that nginx sets
// on the connection; `apply_stream_reset` sets it, just before the response is sent.
void ignore_stream_reset(ngx_http_request_t *r);
void apply_stream_reset(Context &context);

// quic.cpp: HTTP/3.  Needs no counterpart: a QUIC stream has one request.
void ignore_quic_close(ngx_http_request_t *r);

}  // namespace idempotency
