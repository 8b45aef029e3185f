// Treats a response body that nginx can't parse (such as a wrong chunk size) like an
// upstream connection that failed: the response is incomplete.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it when the response header has arrived, before nginx reads the body.
void watch_for_malformed_body(Context &context);

}  // namespace idempotency
