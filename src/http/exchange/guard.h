// Protects the exchange of a claimed request: it runs to its end even if the
// client disconnects, and nginx sends the request to no second upstream server after the
// first one may have acted on it.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it in the PRECONTENT phase: it replaces the content handler of the request by
// one that sets up the protection and then calls the original.
void guard_upstream(Context &context);

// The same for a subrequest of a claimed request.  Does nothing for other subrequests.
void guard_subrequest(ngx_http_request_t *r);

// How far the exchange with the upstream has come (ngx_http_upstream_t::request_sent
// and ::state::header_time).
Origin origin_of(const Context &context);

}  // namespace idempotency
