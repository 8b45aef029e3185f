// Claims the key of a request in the store, and acts on the reply: executes, replays,
// refuses, or waits and claims again.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Of the request.  The body, if it belongs to the fingerprint, has been read.  False if it can't be
// computed.
bool compute_fingerprint(Context &context, Fingerprint &fingerprint);

// Computes the fingerprint and sends the claim to the store.  The body, if it belongs
// to the fingerprint, has been read.  Returns what a phase handler returns: NGX_AGAIN
// while the request waits for the reply; it then resumes in stage `claim_replied`.
ngx_int_t claim_key(Context &context);

// Acts on the reply to the claim.  Returns what a phase handler returns: NGX_DECLINED
// if the request goes to its content handler.
ngx_int_t handle_claim_reply(Context &context);

}  // namespace idempotency
