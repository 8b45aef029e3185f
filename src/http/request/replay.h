// A kept response is sent again.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// `record` lies in memory of the exchange.  Returns what a phase handler returns.
ngx_int_t replay(Context &context, const Record &record);

}  // namespace idempotency
