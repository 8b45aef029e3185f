// The end of a request, with or without a response.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// From the cleanup of the request's pool.  It counts the request, and settles a
// claim that is still running.  It allocates nothing.
void on_request_destroyed(Context &context);

}  // namespace idempotency
