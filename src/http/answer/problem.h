// Problem responses: application/problem+json (RFC 9457).

#pragma once

#include "core/problem.h"
#include "http/exchange/context.h"

namespace idempotency {

// As ngx_http_discard_request_body, without asking the client for a body that it has not sent yet
// (`Expect: 100-continue`).
ngx_int_t discard_body(ngx_http_request_t *r);

// Refuses the request with a problem response, in a phase handler, and returns what the
// handler returns.  A configured `error_page` for the status is used instead.
// `status` is one of a refused request, see `problem_of`.  `retry_after` is in milliseconds and
// rounded up to seconds; 0: no Retry-After header.
ngx_int_t refuse_request(Context &context, Status status, Millis retry_after);

// The problem response to a refused request with this status.
Problem problem_of(Status status);

// Call it in the PRECONTENT phase, for a request in stage `problem`, and return what it
// returns.  No content handler gets the request with its method and body: an `error_page`
// with a URI has made it a GET, and in a named location the problem response is sent.
ngx_int_t continue_to_error_page(Context &context);

// Sends a problem response in place of the held response, in a filter.  Returns what a
// body filter returns.  An `error_page` for the status is followed when nginx, after the upstream
// has ended, calls the body filter for what is buffered: the filter then returns
// `follow_error_page`.
ngx_int_t send_problem(Context &context, Problem problem);

// `in`: what the body filter got; null if nginx asks for what is buffered.
ngx_int_t follow_error_page(Context &context, ngx_chain_t *in);

// What this problem response says, with what `idempotency_answer` makes of it.
ProblemText problem_text(const LocationConfig &conf, Problem problem);

}  // namespace idempotency
