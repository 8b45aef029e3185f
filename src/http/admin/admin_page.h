// `idempotency_admin`: the page with which an operator looks up, forgets and settles keys.

#pragma once

#include "http/config/config.h"

namespace idempotency {

// nginx's callback for the directive.
char *set_admin_page(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

// Call it when the whole configuration has been read.  False if the page is open to everyone;
// the error is logged.
bool check_admin_pages(ngx_conf_t *cf, const MainConfig &main);

}  // namespace idempotency
