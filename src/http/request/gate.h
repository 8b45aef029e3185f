// Where a request enters the module: is it covered, and which key does it have?

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Both are nginx's ngx_http_handler_pt for the PRECONTENT phase.  They also resume a
// request that has waited for its body or for the store.

// The first handler of the phase.
ngx_int_t on_request(ngx_http_request_t *r);

// The last one: `try_files` has chosen a file of this location.
ngx_int_t on_request_after_try_files(ngx_http_request_t *r);

}  // namespace idempotency
