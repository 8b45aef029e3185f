// The end of a request, with or without a response.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Counts the request, and settles a claim that is not settled yet.  Call it from the
// cleanup of the request's pool: it allocates nothing there.
void on_request_destroyed(Context &context);

// What happens to the claim of a request that ends before its response is complete.
Settlement settlement_at_end(const Context &context);

}  // namespace idempotency
