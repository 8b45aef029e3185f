// The response of a claimed request is held until its claim is settled.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Installs the header filter and the body filter.  Call it once, in
// postconfiguration, before nginx takes its first request.
void install_capture();

// The filters behind this module's.
extern ngx_http_output_header_filter_pt next_header_filter;
extern ngx_http_output_body_filter_pt next_body_filter;

}  // namespace idempotency
