// Who asked for a change, for the log.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Text such as `"alice" at 192.0.2.1`.  It lives on when the request has ended.
struct Asker {
    u_char text[192];
    std::size_t size = 0;

    // The user is that of the Authorization header (Basic), as in $remote_user.
    explicit Asker(ngx_http_request_t *r);
};

}  // namespace idempotency
