// The response header `X-Accel-Idempotency`, with which the application decides how
// its response is kept.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

constexpr char kAccelHeader[] = "X-Accel-Idempotency";

inline bool is_accel_header(const ngx_table_elt_t &field)
{
    return equal_ignoring_case(view(field.key), kAccelHeader);
}

}  // namespace idempotency
