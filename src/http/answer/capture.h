// Holds the response of a claimed request until its claim is settled.
//
// The header filter decides how the claim is settled, the body filter copies the body
// into the exchange.  When the response is complete, it is recorded in the store; then
// deliver.h sends it.  A response that can't be held is passed through instead
// (pass_through.h).

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Installs the header filter and the body filter.  Call it once, in
// postconfiguration, before nginx takes its first request.
void install_capture();

// The filters that run after this module's.
extern ngx_http_output_header_filter_pt next_header_filter;
extern ngx_http_output_body_filter_pt next_body_filter;

}  // namespace idempotency
