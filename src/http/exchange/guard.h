// Protects the exchange of a claimed request: it runs to its end even if the
// client disconnects, and nginx sends it to one upstream server only.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it in the PRECONTENT phase, before the content handler runs: the content
// handler of the request is replaced by one that sets up the protection.
void guard_upstream(Context &context);

// The same for a subrequest of a claimed request.  Does nothing for others.
void guard_subrequest(ngx_http_request_t *r);

// How far the exchange with the upstream came (ngx_http_upstream_t::request_sent
// and ::state::header_time).
Origin origin_of(const Context &context);

}  // namespace idempotency
