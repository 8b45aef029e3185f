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

// Call it when nginx has initialised the peers of r->upstream.  Protects the exchange of a
// claimed request, or of its subrequest, whatever content handler has created it.  False if
// there is no memory.
bool guard_exchange(ngx_http_request_t *r);

// Whether the client still owes bytes of its body.  Over HTTP/2 nginx clears
// `reading_body` at the end of the stream, which may come after the last byte.
inline bool is_body_missing(ngx_http_request_t *r)
{
    return r->reading_body
           && (r->headers_in.content_length_n < 0 || r->request_body == nullptr
               || r->request_body->received < r->headers_in.content_length_n);
}

}  // namespace idempotency
