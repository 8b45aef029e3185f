// An internal redirect of a claimed request: `error_page`, X-Accel-Redirect,
// `try_files`.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it when the request arrives in the new location.  The claim stays.  The context
// keeps how far the exchange with the previous upstream has come, and the
// X-Accel-Idempotency headers of its response.
void continue_after_redirect(Context &context);

}  // namespace idempotency
