// Sends the held response to the client.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// The bit of r->buffered that this module sets while it waits for the store.  nginx
// leaves this bit to modules; its image filter uses the same one.
constexpr unsigned kBuffered = 0x08;

// The claim is settled: sends the whole response, or a problem response if it is
// incomplete.  Returns what a body filter returns.
ngx_int_t deliver(Context &context);

// The response can't be kept (too large, a stream): settles the claim, sends the header
// and the held part of the body, then `rest`.  What arrives later is passed through.
// Returns what a body filter returns.
ngx_int_t start_pass_through(Context &context, ngx_chain_t *rest);

// Exchange::ReplyHandler of a call that settles the claim.
void on_settled(Context &context);

// nginx's ngx_event_handler_pt: a gRPC response has sent one message and then nothing
// for a while, so it is taken for a stream and passed through.
void on_idle_stream(ngx_event_t *event);

// Marks a buffer as sent, so that its owner can use it again.
void mark_sent(ngx_buf_t *b);

}  // namespace idempotency
