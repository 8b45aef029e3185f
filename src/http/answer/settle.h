// Collects what decides about the claim of a response, and settles the claim when the response
// is complete.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// The response header has arrived: reads and removes the headers that are meant for this module,
// and decides as far as the header decides.
void read_response_head(Context &context);

// The response is complete: the same with the trailers.
void read_response_end(Context &context);

// The response will not be kept, whatever comes.  `obstacle` is one of Outcome::not_kept_*.
void give_up_keeping(Context &context, Outcome obstacle);

// The whole response is held, or the whole stream was recorded: settles the claim, and then
// delivers what is held.  Returns what a body filter returns.
ngx_int_t settle(Context &context);

// The body of the response that is held is incomplete: settles the claim as an unknown outcome,
// and then sends a problem response.
ngx_int_t settle_incomplete(Context &context);

}  // namespace idempotency
