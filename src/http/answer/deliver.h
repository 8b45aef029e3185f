// The held response is sent to the client.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// The bit of r->buffered that this module sets while a response is held.  nginx
// leaves it to modules; its image filter uses the same one.
constexpr unsigned kBuffered = 0x08;

// The claim is settled: sends the whole response.  Returns what a body filter returns.
ngx_int_t deliver(Context &context);

// The response can't be kept (too large, a stream): settles the claim, sends what is
// held, then `rest`.  From then on the response is passed through as it comes.
// Returns what a body filter returns.
ngx_int_t start_pass_through(Context &context, ngx_chain_t *rest);

// Called by the exchange when the store has settled the claim.
void on_settled(Context &context);

// nginx's ngx_event_handler_pt: a gRPC response has sent a message and then nothing
// for a while, so it is a stream.
void on_idle_stream(ngx_event_t *event);

// Marks a buffer as sent, so that its owner can use it again.
void consume(ngx_buf_t *b);

}  // namespace idempotency
