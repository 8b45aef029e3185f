// The response header `X-Accel-Idempotency`, in which the application says what is
// to become of its response.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

inline bool is_word_header(const ngx_table_elt_t &field)
{
    return equal_ignoring_case(view(field.key), "X-Accel-Idempotency");
}

}  // namespace idempotency
