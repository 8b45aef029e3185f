// The nginx modules that send a request to an upstream, and their content handlers.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// The number of these modules.  The location configuration of each begins with an
// ngx_http_upstream_conf_t.
constexpr ngx_uint_t kUpstreamModules = 6;

// Adds the ctx_index of each of these modules that nginx has.  False if there is no memory.
bool find_upstream_modules(ngx_conf_t *cf, ngx_array_t &indices);

// The content handlers of these modules.  nginx has no list of them, so they are collected:
// `learn_upstream_handler` takes the handler of a location with an upstream; call it when
// the configuration of the location is merged.  `remember_upstream_handler` takes a handler
// that has created an upstream in a worker.
void learn_upstream_handler(ngx_conf_t *cf, const ngx_array_t &indices);
void remember_upstream_handler(ngx_http_handler_pt handler);
bool is_upstream_handler(ngx_http_handler_pt handler);

}  // namespace idempotency
