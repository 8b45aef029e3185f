// Replays a kept response.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Sends the response in `record`, whose memory belongs to the exchange.  Returns what
// a phase handler returns.
ngx_int_t replay(Context &context, const Record &record);

}  // namespace idempotency
