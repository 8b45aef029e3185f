// Forgets all finished keys of one scope, in the background of one worker.

#pragma once

#include "http/admin/question.h"

namespace idempotency {

// Both return what a content handler returns.
ngx_int_t start_erasure(ngx_http_request_t *r, const AdminQuestion &question);
ngx_int_t show_erasure(ngx_http_request_t *r, const AdminQuestion &question);

// The worker exits: notes that its erasures end.  Before the stores are closed.
void stop_erasures();

}  // namespace idempotency
