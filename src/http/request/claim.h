// Claims the key of a request in the store, and acts on the reply.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Both return what a phase handler returns.  `claim_key` asks the store; if the reply
// is not there at once, the request waits and resumes with `handle_claim_reply`.
ngx_int_t claim_key(Context &context);
ngx_int_t handle_claim_reply(Context &context);

}  // namespace idempotency
