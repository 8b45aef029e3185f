// The variables of the module: $idempotency_status, $idempotency_age,
// $idempotency_store_time, $idempotency_key_id and $idempotency_token.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Call it in preconfiguration.  NGX_OK or NGX_ERROR.
ngx_int_t add_variables(ngx_conf_t *cf);

}  // namespace idempotency
