// The module's own responses: application/problem+json (RFC 9457).

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

enum class Problem {
    key_missing,
    scope_missing,
    key_invalid,
    key_reused,
    in_progress,
    outcome_unknown,
    response_not_kept,
    store_unavailable,
    response_incomplete,
};

// In a phase handler: refuses the request.  Returns what the handler has to return.
// `wait` is the value of Retry-After in milliseconds, rounded up to seconds; 0: no
// such header.
ngx_int_t refuse(Context &context, Status status, Problem problem, Millis wait);

// In a filter, in place of a held response.  Returns what a body filter returns.
ngx_int_t send_problem(ngx_http_request_t *r, const LocationConfig &conf, Problem problem);

}  // namespace idempotency
