// The first step of a request: is it covered, and which key does it have?
//
// A covered request then takes these steps:
//   body_digest.h         reads the body and computes its digest (unless `body=off`)
//   claim.h               claims the key in the store
//     replay.h            the key has a kept response: sends it again
//     answer/problem.h    the key is in use, or the store failed: refuses the request
//   exchange/guard.h      the key was free: protects the exchange with the upstream
//   answer/capture.h      holds the response, and settles the claim in the store
//   answer/deliver.h      sends the response to the client
// context.h has the state of the request, exchange.h that of its claim.

#pragma once

#include "nginx/nginx.h"

#include "core/coverage.h"
#include "http/config/config.h"
#include "http/exchange/context.h"

namespace idempotency {

struct Examination {
    Coverage coverage;
    Scope scope;
    ParsedKey key;
    char key_buffer[kMaxKeyLength];
};

// Finds key and scope of a request with a covered method, and whether it is covered.  False if a
// value can't be evaluated or there is no memory.
bool examine(ngx_http_request_t *r, const LocationConfig &conf, Examination &examination);

// `$idempotency_status` of a request that is not covered.
Status status_of(Coverage coverage);

// Both are nginx's ngx_http_handler_pt for the PRECONTENT phase.  nginx also calls
// them when a request resumes that has waited for its body or for the store.

// The first handler of the phase.
ngx_int_t on_request(ngx_http_request_t *r);

// The last handler of the phase.  It covers a request for which `try_files` has chosen
// a file of the same location.
ngx_int_t on_request_after_try_files(ngx_http_request_t *r);

}  // namespace idempotency
