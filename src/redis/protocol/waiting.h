// Calls that wait until it is known which server they go to.

#pragma once

#include "core/deadline_queue.h"
#include "core/store.h"

namespace idempotency {

class RedisWaiting {
public:
    RedisWaiting() = default;
    ~RedisWaiting() { end_all(); }
    RedisWaiting(const RedisWaiting &) = delete;
    RedisWaiting &operator=(const RedisWaiting &) = delete;

    // False where there is no memory: the call is as it was.
    bool push(Call &call, Millis deadline) noexcept;

    // The one that has waited for the longest, or null.
    Call *pop(Millis &deadline) noexcept;

    // Both end calls as `unavailable`; from within, others may be pushed.
    void expire(Millis now) noexcept;
    void end_all() noexcept;

    // When `expire` has something to do next, or kNever.
    Millis next_deadline() const noexcept;

    bool empty() const { return places_.empty(); }

private:
    struct Place;

    static void end(Place *place) noexcept;

    DeadlineQueue<Place> places_;
};

}  // namespace idempotency
