// `idempotency_quota`: how many new keys each VALUE may have.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Evaluates VALUE.  False if that fails.
bool evaluate_quota(Context &context);

// Whether the request may claim a new key, which is then counted.  Otherwise `context.quota_wait`
// says when.
bool take_quota(Context &context);

// The key was not new, or the store did not grant the claim: what was counted is not used.
void give_quota_back(Context &context);

}  // namespace idempotency
