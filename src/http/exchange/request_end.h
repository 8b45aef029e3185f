// The end of a request, with or without a response.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// nginx's ngx_http_handler_pt, the first one of the LOG phase: settles a claim that is not settled
// yet, so that the log has its outcome.
ngx_int_t on_log(ngx_http_request_t *r);

// Counts the request, and settles a claim that is not settled yet (a request that nginx frees
// without the LOG phase).  Call it from the cleanup of the request's pool: it allocates nothing
// there.
void on_request_destroyed(Context &context);

// What happens to the claim of a request that ends before its response is complete.
Outcome outcome_at_end(const Context &context);

}  // namespace idempotency
