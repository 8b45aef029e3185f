// Functions that several directives of a store use for their arguments.

#pragma once

#include "http/config/arguments.h"

namespace idempotency {

// Each sets `field` to the value of the first argument, or of `argument`.  NGX_CONF_OK or
// NGX_CONF_ERROR; an error is logged.

// A size of shared memory, in bytes.
char *read_zone_size(ngx_conf_t *cf, off_t &field, const char *expected);

char *read_number(ngx_conf_t *cf, ngx_int_t &field, ngx_int_t minimum, ngx_int_t maximum,
                  const char *expected);
char *read_time(ngx_conf_t *cf, ngx_uint_t argument, ngx_int_t &field);
char *read_text(ngx_conf_t *cf, ngx_str_t &field, const char *expected);

// The name of a file, which is relative to the directory of nginx.conf.
char *read_path(ngx_conf_t *cf, ngx_uint_t argument, ngx_str_t &field);

// Makes the name of a file absolute.
char *resolve_path(ngx_conf_t *cf, ngx_str_t &path);

char *append_text(ngx_array_t &array, const ngx_str_t &text);

}  // namespace idempotency
