// The response is sent to the client as it comes, without being kept.  If the
// client disconnects, the exchange with the upstream continues to its end.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Starts to watch the client.  Call it once, before the first `pass_through`.
void watch_client(Context &context);

// The client has disconnected: from here on what the upstream sends is read and
// dropped.
void on_client_disconnected(Context &context);

// Sends `in` to the client.  Returns what a body filter returns; it is no error that
// the client has disconnected while the upstream still sends.
ngx_int_t pass_through(Context &context, ngx_chain_t *in);

// Marks all buffers as sent.
void consume_all(ngx_chain_t *in);

}  // namespace idempotency
