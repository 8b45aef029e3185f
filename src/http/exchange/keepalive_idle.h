// `idempotency_keepalive_idle`: a covered request is not sent over an upstream
// connection that has been idle for too long.
//
// The application may close such a connection at the very moment at which the request
// is sent.  nginx can't tell this from an application that died with the request, so
// the outcome would be unknown.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// nginx's create_srv_conf: what this module stores for an upstream block.
void *create_upstream_config(ngx_conf_t *cf);

// Call it in postconfiguration: wraps the peer initialization of each upstream.
void watch_upstreams(ngx_conf_t *cf);

// Call it in init_process.  False if there is no memory.
bool start_keepalive_watch(ngx_cycle_t *cycle);

}  // namespace idempotency
