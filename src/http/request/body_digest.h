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

// Digests the body of a request that is only observed, while nginx reads it for another module or
// handler, if it reads it.  Calls `on_digested` when the whole body is digested, which may be at
// once.  False if it can't be digested.
bool digest_passing_body(Context &context, void (*on_digested)(Context &context));

}  // namespace idempotency
