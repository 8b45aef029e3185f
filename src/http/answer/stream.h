// A response that is delivered as it arrives, and recorded at the same time.  When it has ended,
// the claim is settled; only then the client gets its end.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Whether the response must not be held, as its header says.
bool is_stream(const Context &context);

// Sends the header, and the part of the body that was held, with a flush.  Returns what a body
// filter returns.
ngx_int_t start_stream(Context &context);

// Records and sends the next part of the body.  Returns what a body filter returns.
ngx_int_t stream_body(Context &context, ngx_chain_t *in);

// Starts the timer after which a gRPC response without trailers is a stream.
void await_grpc_trailers(Context &context);

// When an upstream response ends early, ngx_http_upstream_finalize_request sends a flush
// and no last buffer.
bool is_truncated(const Context &context, const ngx_buf_t *b);

// FastCGI, SCGI, uwsgi: nginx takes the end of the connection for the end of the response,
// even if the body is shorter or longer than Content-Length.
bool has_wrong_length(const Context &context);

}  // namespace idempotency
