// A log line that clients can cause: at most one in each second, in each worker.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

class LogLimit {
public:
    // Whether the line may be logged now.  If not, it is counted.
    bool allows()
    {
        constexpr ngx_msec_t interval = 1000;

        if (logged_before_ && ngx_current_msec - last_logged_ < interval) {
            suppressed_++;
            return false;
        }

        logged_before_ = true;
        last_logged_ = ngx_current_msec;
        return true;
    }

    // How many lines were not logged since the last one.  Call it once for each line.
    ngx_uint_t take_suppressed()
    {
        ngx_uint_t suppressed = suppressed_;

        suppressed_ = 0;
        return suppressed;
    }

private:
    bool logged_before_ = false;
    ngx_msec_t last_logged_ = 0;
    ngx_uint_t suppressed_ = 0;
};

}  // namespace idempotency
