// The filters that read the response to a request that is only observed.  They change nothing.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Call it once, in postconfiguration, if a location has `observe`.
void install_observation();

}  // namespace idempotency
