// Sends a kept response again.

#pragma once

#include "core/record.h"
#include "http/exchange/context.h"

namespace idempotency {

// Sends the response, in a phase handler, and returns what the handler returns.  If internal
// redirects had led to the response, the request passes them first, with the access checks
// of each location; the filters are those of the last one.
ngx_int_t replay(Context &context, const Record &record);

// Call it in the PRECONTENT phase, in stage `redirecting_replay`, and return what it
// returns: no content handler gets the request.
ngx_int_t continue_replay(Context &context);

}  // namespace idempotency
