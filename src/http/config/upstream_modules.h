// nginx's modules that send a request to an upstream, and their content handlers.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// The location configuration of each of these modules begins with an
// ngx_http_upstream_conf_t.  So many there are:
constexpr ngx_uint_t kUpstreamModules = 6;

// Stores the ctx_index of each module that this nginx has.  False if there is no memory.
bool find_upstream_modules(ngx_conf_t *cf, ngx_array_t &indices);

// Which content handlers send a request to an upstream: `learn_upstream_handler` is
// for the merge of a location's configuration, `remember_upstream_handler` for a
// handler that a worker has seen doing it.
void learn_upstream_handler(ngx_conf_t *cf, const ngx_array_t &indices);
void remember_upstream_handler(ngx_http_handler_pt handler);
bool is_upstream_handler(ngx_http_handler_pt handler);

}  // namespace idempotency
