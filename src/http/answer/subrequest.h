// Subrequests of a claimed request, whose output goes into its response.  Such a
// response is not kept.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

bool has_subrequests(ngx_http_request_t *r);

// `start_pass_through` while subrequests are pending: what is held is sent before
// their output.
ngx_int_t start_pass_through_before_subrequests(Context &context, ngx_chain_t *rest);

// The body filter of a subrequest.
ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in);

}  // namespace idempotency
