// Warnings of `nginx -t` about a location whose other directives contradict `idempotency`.

#pragma once

#include "http/config/config.h"

namespace idempotency {

// Call it when the configuration of the location has been merged.  `own_store`: the location has
// `idempotency STORE` itself, and does not inherit it.
void warn_about_location(ngx_conf_t *cf, const LocationConfig &conf, bool own_store);

}  // namespace idempotency
