// The response header `X-Accel-Idempotency`, with which the application decides how
// its response is kept.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

inline bool is_accel_header(const ngx_table_elt_t &field)
{
    return equal_ignoring_case(view(field.key), "X-Accel-Idempotency");
}

}  // namespace idempotency
