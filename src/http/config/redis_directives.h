// The functions that read the directives of a store in Redis.

#pragma once

#include "http/config/store_options.h"

namespace idempotency {

// NGX_CONF_OK or NGX_CONF_ERROR; an error is logged.

// redis_directives.cpp
char *read_urls(ngx_conf_t *cf, StoreOptions &options);
char *read_database(ngx_conf_t *cf, StoreOptions &options);
char *read_connections(ngx_conf_t *cf, StoreOptions &options);
char *read_connect_timeout(ngx_conf_t *cf, StoreOptions &options);
char *read_timeout(ngx_conf_t *cf, StoreOptions &options);
char *read_prefix(ngx_conf_t *cf, StoreOptions &options);
char *read_wait_replicas(ngx_conf_t *cf, StoreOptions &options);

// topology_directive.cpp
char *read_topology(ngx_conf_t *cf, StoreOptions &options);

// credential_directives.cpp
char *read_user(ngx_conf_t *cf, StoreOptions &options);
char *read_password(ngx_conf_t *cf, StoreOptions &options);
char *read_password_file(ngx_conf_t *cf, StoreOptions &options);

// tls_directives.cpp
char *read_trusted_certificate(ngx_conf_t *cf, StoreOptions &options);
char *read_certificate(ngx_conf_t *cf, StoreOptions &options);
char *read_certificate_key(ngx_conf_t *cf, StoreOptions &options);
char *read_tls_name(ngx_conf_t *cf, StoreOptions &options);
char *read_verify(ngx_conf_t *cf, StoreOptions &options);
char *read_protocols(ngx_conf_t *cf, StoreOptions &options);

}  // namespace idempotency
