// Sends a response to the client while it arrives.  If the client disconnects, what may still
// be kept is read on: a stream, for the time that `idempotency_stream` says, and a response that
// is made by subrequests.  Otherwise the exchange with the upstream ends.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Installs event handlers that notice when the client disconnects.  Call it once,
// before the first `pass_through`.
void watch_client(Context &context);

// The client has disconnected: from now on, the rest of the response is read and dropped.
void on_client_disconnected(Context &context);

// Sends `in` to the client.  Returns what a body filter returns.  A client that has
// disconnected is no error while the upstream still sends.
ngx_int_t pass_through(Context &context, ngx_chain_t *in);

// The claim is being settled: takes the end of the response, if `in` has it, out of the chain.  It
// is sent when the claim is settled, so that a client which has the whole response can send the
// next request at once.  True if the end is held; then a body filter returns NGX_AGAIN.
bool hold_end(Context &context, ngx_chain_t *in);

// The `tag` of the buffers that have the held part of the body.
inline ngx_buf_tag_t held_tag() { return &ngx_http_idempotency_module; }

// Marks all buffers as sent.
void mark_all_sent(ngx_chain_t *in);

}  // namespace idempotency
