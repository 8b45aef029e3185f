// Calls that wait until it is known which server they go to, with their timer.

#pragma once

#include "nginx/nginx.h"

#include "redis/protocol/call_queue.h"
#include "core/store.h"

namespace idempotency {

class RedisWaitingCalls {
public:
    RedisWaitingCalls() = default;
    RedisWaitingCalls(const RedisWaitingCalls &) = delete;
    RedisWaitingCalls &operator=(const RedisWaitingCalls &) = delete;

    // Before anything else, in a worker.  `log` outlives this object.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // The call waits for `timeout` milliseconds at most, then it ends as
    // `unavailable`.  True where it has ended at once, as there is no memory.
    bool add(Call &call, ngx_msec_t timeout) noexcept;

    // Removes the call that has waited for the longest; null where there is none.
    Call *take_next(Millis &deadline) noexcept;

private:
    static void on_deadline(ngx_event_t *event);

    RedisCallQueue calls_;
    ngx_event_t timer_{};
};

}  // namespace idempotency
