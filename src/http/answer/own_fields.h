// The header fields between the application and this module, and those that only this module may
// send: they reach no client.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Removes `X-Accel-Idempotency` from a list of headers or trailers, and reads it into `directives`.
// Removes the replayed header too.  With `observe` it removes nothing.
void take_own_fields(ngx_list_t &list, const LocationConfig &conf, Word &directives);

// Removes them where the request is not covered (`context` may be null) but `idempotency` is on.
void clean_fields(ngx_http_request_t *r, const Context *context, ngx_list_t &list);

}  // namespace idempotency
