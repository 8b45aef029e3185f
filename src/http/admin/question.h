// What a request asks of the admin page: its method, its arguments and its headers.

#pragma once

#include "http/admin/response.h"
#include "http/config/config.h"

namespace idempotency {

struct AdminQuestion {
    enum class Kind { show, forget, settle, erase, show_erasure };

    Kind kind = Kind::show;
    StoreSlot *slot = nullptr;
    KeyId id{};
    bool id_is_stored = false;  // given as `id`, not by headers
    bool shows_answer = false;
    bool force = false;
    bool is_not_kept = false;  // `settle`: `outcome=not_kept`, else `released`
    std::uint64_t erasure = 0;
    Scope scope{};  // of `erase`; its values lie in the request
};

// Null, or what is wrong with the request.
const AdminProblem *read_admin_question(ngx_http_request_t *r, AdminQuestion &question);

}  // namespace idempotency
