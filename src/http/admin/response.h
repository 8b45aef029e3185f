// The responses of the admin page.

#pragma once

#include "nginx/nginx.h"

#include "http/admin/text.h"

namespace idempotency {

struct AdminProblem {
    ngx_uint_t status;
    const char *code;
    const char *detail;  // needs no escapes in JSON
};

// Both return what a content handler returns.
ngx_int_t send_admin_json(ngx_http_request_t *r, ngx_uint_t status, JsonText &text);
ngx_int_t send_admin_problem(ngx_http_request_t *r, const AdminProblem &problem);

}  // namespace idempotency
