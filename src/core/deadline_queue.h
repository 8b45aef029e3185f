// What waits in the order in which it came, each until a deadline of its own.

#pragma once

#include <algorithm>

#include "core/store.h"

namespace idempotency {

// No deadline.
constexpr Millis kNever = ~Millis(0);

// `T` has a `T *next`, which is this queue's while it is in it, and a `deadline`.
// It owns nothing.
template <typename T>
class DeadlineQueue {
public:
    T *first() const { return first_; }
    bool empty() const { return first_ == nullptr; }

    void push(T *item) noexcept
    {
        item->next = nullptr;

        if (last_ != nullptr) {
            last_->next = item;
        } else {
            first_ = item;
        }

        last_ = item;
    }

    // It is not empty.
    T *pop() noexcept
    {
        T *item = first_;

        first_ = item->next;

        if (first_ == nullptr) {
            last_ = nullptr;
        }

        return item;
    }

    // All of them; the queue is empty then.
    DeadlineQueue take() noexcept
    {
        DeadlineQueue all = *this;

        *this = DeadlineQueue();
        return all;
    }

    // Those whose deadline has come.
    DeadlineQueue take_expired(Millis now) noexcept
    {
        DeadlineQueue all = take();
        DeadlineQueue expired;

        while (!all.empty()) {
            T *item = all.pop();

            (item->deadline > now ? *this : expired).push(item);
        }

        return expired;
    }

    // The earliest of those that count; kNever: there is none.
    template <typename Counts>
    Millis next_deadline(Counts counts) const noexcept
    {
        Millis next = kNever;

        for (const T *at = first_; at != nullptr; at = at->next) {
            if (counts(*at)) {
                next = std::min(next, at->deadline);
            }
        }

        return next;
    }

    Millis next_deadline() const noexcept
    {
        return next_deadline([](const T &) { return true; });
    }

private:
    T *first_ = nullptr;
    T *last_ = nullptr;
};

}  // namespace idempotency
