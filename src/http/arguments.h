// What all directives do with their arguments.

#pragma once

#include "http/config.h"

namespace idempotency {

// The directive's name is the first.
inline ngx_str_t *arguments(ngx_conf_t *cf) { return static_cast<ngx_str_t *>(cf->args->elts); }

inline char *failed() { return static_cast<char *>(NGX_CONF_ERROR); }

// Say what is wrong with a directive's value, and what would be right.
char *refuse_value(ngx_conf_t *cf, const ngx_str_t *directive, const ngx_str_t *value,
                   const char *expected);
char *refuse(ngx_conf_t *cf, ngx_uint_t argument, const char *expected);

// A time above 0 in milliseconds; NGX_ERROR where the text is none.
ngx_int_t parse_time(ngx_str_t *text);

}  // namespace idempotency
