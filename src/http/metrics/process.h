// Whether a worker still runs.

#pragma once

#include "nginx/nginx.h"

#include <csignal>
#include <cstdint>

namespace idempotency {

inline bool is_alive(std::uint64_t pid)
{
    return pid == static_cast<std::uint64_t>(ngx_pid) || kill(static_cast<pid_t>(pid), 0) == 0
           || ngx_errno != NGX_ESRCH;
}

}  // namespace idempotency
