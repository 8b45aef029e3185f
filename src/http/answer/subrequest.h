// Subrequests of a claimed request whose output goes into its response.  Such a
// response is passed through and not kept.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

bool has_subrequests(ngx_http_request_t *r);

// `start_pass_through` for a request with pending subrequests: the held part of the
// body is sent before the output of the subrequests, `rest` after it.
ngx_int_t start_pass_through_before_subrequests(Context &context, ngx_chain_t *rest);

// The body filter of a subrequest.
ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in);

}  // namespace idempotency
