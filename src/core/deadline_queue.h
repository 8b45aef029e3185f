// A first-in, first-out queue whose items have deadlines.

#pragma once

#include <algorithm>

#include "core/store.h"

namespace idempotency {

// No deadline.
constexpr Millis kNever = ~Millis(0);

// An intrusive list: `T` has a member `T *next`, which the queue uses, and a member
// `Millis deadline`.  The queue does not own its items.
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

    // The queue must not be empty.
    T *pop() noexcept
    {
        T *item = first_;

        first_ = item->next;

        if (first_ == nullptr) {
            last_ = nullptr;
        }

        return item;
    }

    // Removes all items and returns them.
    DeadlineQueue take() noexcept
    {
        DeadlineQueue all = *this;

        *this = DeadlineQueue();
        return all;
    }

    // Removes the items with deadline <= now and returns them, in their order.  O(n).
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

    // The earliest deadline of the items for which `counts` is true, or kNever.  O(n).
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
