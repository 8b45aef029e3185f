// Files with a password or a key.

#pragma once

#include "http/config/arguments.h"

namespace idempotency {

// Reads at most `size` bytes of the file `name` into `buffer`.  The number of bytes; 0 if it is no
// regular file, can't be read or is empty: the error is logged.  `directive`: the directive or the
// parameter that has the name.  `content`: what has to be in the file, for the error of an empty
// one.
size_t read_secret_file(ngx_conf_t *cf, const ngx_str_t &directive, const ngx_str_t &name,
                        u_char *buffer, size_t size, const char *content);

// Sets `password` to the first line of the file `name`.  NGX_CONF_OK or NGX_CONF_ERROR; an error
// is logged.
char *read_password_of_file(ngx_conf_t *cf, const ngx_str_t &directive, const ngx_str_t &name,
                            ngx_str_t &password);

}  // namespace idempotency
