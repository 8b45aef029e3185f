// Computes the SHA-256 digest of the request body while the body is read.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Installs the request body filter.  Call it once, in postconfiguration.
void install_body_digest();

// Reads the whole body, then calls `claim_key`.  Returns what a phase handler returns:
// NGX_DONE while the body is still being read; the request then resumes in stage
// `reading_body`.
ngx_int_t read_body(Context &context);

}  // namespace idempotency
