// `idempotency_status`: a page with the metrics of all stores.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Reads the directive: nginx's `set` callback.
char *set_status_page(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

}  // namespace idempotency
