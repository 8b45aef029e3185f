// The place of this module among nginx's modules.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Puts this module last in the slot of third-party filters, right before the copy filter, whatever
// the order of the `load_module` directives is.  nginx installs filters and phase handlers in the
// order of its modules.  So the filters of this module get the response before all other
// third-party filters: what these change is not kept, and is not changed twice in a replay.
//
// Call it only from the function of a directive: nginx does not walk through the modules then.
void move_behind_other_filters(ngx_cycle_t *cycle);

}  // namespace idempotency
