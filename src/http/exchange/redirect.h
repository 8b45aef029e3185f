// An internal redirect of a claimed request: `error_page`, X-Accel-Redirect,
// `try_files`.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Call it when the request arrives in the new location.  The claim stays; what the
// upstream of the previous location said is stored in the context.
void continue_after_redirect(Context &context);

}  // namespace idempotency
