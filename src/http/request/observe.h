// `idempotency STORE observe`: a dry run.  The request goes on at once, as without the module.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it in the PRECONTENT phase for a request with a covered method, in place of the claim.  What
// fails in it ends the observation, and nothing else.
void observe(ngx_http_request_t *r, LocationConfig *conf);

// Another location covers the request in earnest: what was observed so far does not count.
void end_observation(Context &context);

}  // namespace idempotency
