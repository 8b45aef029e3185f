// Calls that wait until it is known which server they go to, with their timer.

#pragma once

#include "nginx/nginx.h"

#include "redis/protocol/waiting.h"
#include "core/store.h"

namespace idempotency {

class RedisWaitingRoom {
public:
    RedisWaitingRoom() = default;
    RedisWaitingRoom(const RedisWaitingRoom &) = delete;
    RedisWaitingRoom &operator=(const RedisWaitingRoom &) = delete;

    // Before anything else, in a worker.  `log` outlives this object.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // A call waits for so long, then it ends as `unavailable`.  True where it
    // has ended at once, since there is no memory.
    bool wait(Call &call, ngx_msec_t length) noexcept;

    // The one that has waited for the longest, or null.
    Call *next(Millis &deadline) noexcept;

private:
    static void on_deadline(ngx_event_t *event);

    RedisWaiting waiting_;
    ngx_event_t timer_{};
};

}  // namespace idempotency
