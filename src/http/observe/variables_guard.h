// Evaluates variables without a trace: for an observed request they must have the values that
// they would have without this module.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// What is evaluated while a guard lives is not cached in the request, and the captures of a regular
// expression (`$1`) stay those of the request's own location.
class VariablesGuard {
public:
    explicit VariablesGuard(ngx_http_request_t *r);
    ~VariablesGuard();
    VariablesGuard(const VariablesGuard &) = delete;
    VariablesGuard &operator=(const VariablesGuard &) = delete;

    // False: there is no memory, so nothing may be evaluated.
    bool usable() const { return saved_ != nullptr; }

private:
    ngx_http_request_t *request_;
    ngx_http_variable_value_t *saved_;
    size_t size_;

#if (NGX_PCRE)
    ngx_uint_t capture_count_;
    int *captures_;
    u_char *captures_data_;
    unsigned realloc_captures_ : 1;
#endif
};

}  // namespace idempotency
