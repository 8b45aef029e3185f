// A log line that each request may cause: at most one in each second, in each worker.

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

    // A line that is of use for each request: those that are above the limit have the level
    // `info`.
    struct Line {
        ngx_uint_t level;
        ngx_uint_t suppressed;  // since the last line that had the level
    };

    Line next(ngx_uint_t level)
    {
        return allows() ? Line{level, take_suppressed()} : Line{NGX_LOG_INFO, 0};
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

// A line that names one of several causes: each cause has a limit of its own.
class LogLimits {
public:
    // `cause` is a string literal.
    LogLimit &of(const char *cause)
    {
        std::size_t i = 0;

        while (i < kCauses - 1 && causes_[i] != nullptr && causes_[i] != cause) {
            i++;
        }

        causes_[i] = cause;
        return limits_[i];
    }

private:
    static constexpr std::size_t kCauses = 10;

    const char *causes_[kCauses] = {};
    LogLimit limits_[kCauses];
};

}  // namespace idempotency
