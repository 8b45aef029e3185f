// A response body that nginx can't parse, such as a chunked body with a wrong chunk
// size, is treated like one that broke off.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it when the response header is there, before nginx reads the body.
void watch_for_malformed_body(Context &context);

}  // namespace idempotency
