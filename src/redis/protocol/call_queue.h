// Calls that wait until it is known which server they go to.

#pragma once

#include "core/deadline_queue.h"
#include "core/store.h"

namespace idempotency {

class RedisCallQueue {
public:
    RedisCallQueue() = default;
    ~RedisCallQueue() { end_all(); }
    RedisCallQueue(const RedisCallQueue &) = delete;
    RedisCallQueue &operator=(const RedisCallQueue &) = delete;

    // False where there is no memory: the call is unchanged.
    bool push(Call &call, Millis deadline) noexcept;

    // Removes the call that has waited for the longest; null where there is none.
    Call *pop(Millis &deadline) noexcept;

    // End calls as `unavailable`: those whose deadline has passed, or all.  Calls
    // may be pushed from within Call::ended.
    void expire(Millis now) noexcept;
    void end_all() noexcept;

    // When `expire` has something to do next, or kNever.
    Millis next_deadline() const noexcept;

    bool empty() const { return entries_.empty(); }

private:
    struct Entry;

    static void end(Entry *entry) noexcept;

    DeadlineQueue<Entry> entries_;
};

}  // namespace idempotency
