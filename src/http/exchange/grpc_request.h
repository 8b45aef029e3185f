// What is special about a gRPC request: its deadline.  A covered call is sent without it: a client
// that gives up changes nothing for the exchange.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// By its media type.
bool is_grpc_request(ngx_http_request_t *r);

// The request header `grpc-timeout`, or null.
ngx_table_elt_t *find_grpc_timeout(ngx_http_request_t *r);

// Hides the header from the upstream modules, and remembers its value for `$http_grpc_timeout`.
void hide_grpc_timeout(Context &context);

}  // namespace idempotency
