// The SHA-256 of the request body, computed while the body is read.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Installs the request body filter.  Call it once, in postconfiguration.
void install_body_digest();

// Reads the body, then claims the key.  Returns what a phase handler returns.
ngx_int_t read_body(Context &context);

}  // namespace idempotency
