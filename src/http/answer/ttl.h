// How long a response is kept.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Milliseconds, by the `X-Accel-Idempotency` header and `idempotency_ttl`.  The header of the
// response is there.
Millis response_ttl(Context &context);

}  // namespace idempotency
