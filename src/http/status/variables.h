// The variables of the module, such as $idempotency_status.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Call it in preconfiguration.  NGX_OK or NGX_ERROR.
ngx_int_t add_variables(ngx_conf_t *cf);

}  // namespace idempotency
