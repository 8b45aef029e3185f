// One request about one key: the store is asked what it has, and the answer is shown, or what was
// seen is changed.

#pragma once

#include "http/admin/asker.h"
#include "http/admin/question.h"

namespace idempotency {

// Begins the request about a key, and returns what a content handler returns.
ngx_int_t start_key_call(ngx_http_request_t *r, const AdminQuestion &question);

}  // namespace idempotency
