// Makes nginx call this module when it follows an `error_page`.
//
// ngx_http_named_location and ngx_http_internal_redirect clear the contexts of all modules,
// and nothing else in the request says reliably that an `error_page` led it to a location
// (r->err_status is 0 with `=`, r->error_page is not set with `recursive_error_pages`).  But
// nginx evaluates the URI of the page first, as a complex value.  So the scripts of these
// values get one more code, which is empty and calls MainConfig::on_error_page.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Adds the list of the location that is being merged to `lists` (of ngx_array_t *).
bool collect_error_pages(ngx_conf_t *cf, ngx_array_t &lists);

// Adds the code to each page of the lists.  Call it in postconfiguration.
bool watch_error_pages(ngx_conf_t *cf, const ngx_array_t &lists);

}  // namespace idempotency
