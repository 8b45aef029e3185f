// Sends the held response to the client.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// The bit of r->buffered that this module sets while it waits for the store.  nginx
// leaves this bit to modules; its image filter uses the same one.
constexpr unsigned kBuffered = 0x08;

// The claim is settled: sends what is held (the whole response, or the end of a stream), or a
// problem response if it is incomplete.  Returns what a body filter returns.
ngx_int_t deliver(Context &context);

// The response will not be kept, and what arrives from now on is passed through: settles the claim.
// False: an error is logged.
bool stop_recording(Context &context, Outcome obstacle);

// The response will not be kept: settles the claim, and sends the header and the held part of the
// body if they were not sent yet, then `rest`.  What arrives later is passed through.  Returns
// what a body filter returns.
ngx_int_t start_pass_through(Context &context, ngx_chain_t *rest, Outcome obstacle);

// Exchange::ReplyHandler of a call that settles the claim.
void on_settled(Context &context);

// The claim is being settled, and the rest of the response is held: `on_settled` sends it.
void wait_for_store(Context &context);

// For stream.cpp.  `start_sending`: call it before the header is sent while the exchange still
// runs.  `send_held` sends the header, then the held part of the body, then `rest`;
// `more_to_come`: the upstream still sends.  `continue_request`: something was sent from an event
// of this module, with the result `rc`; lets nginx end the request, or wait until the socket is
// writable.
void start_sending(Context &context);
ngx_int_t send_held(Context &context, ngx_chain_t *rest, bool more_to_come);
void continue_request(ngx_http_request_t *r, ngx_int_t rc);

// Null if there is no memory.
ngx_chain_t *create_flush_buffer(ngx_http_request_t *r);

// Marks a buffer as sent, so that its owner can use it again.
void mark_sent(ngx_buf_t *b);

}  // namespace idempotency
