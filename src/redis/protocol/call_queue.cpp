#include "redis/protocol/call_queue.h"

#include <new>

namespace idempotency {

struct RedisCallQueue::Entry {
    Entry *next;
    Call *call;
    Millis deadline;
};

bool RedisCallQueue::push(Call &call, Millis deadline) noexcept
{
    auto entry = new (std::nothrow) Entry{nullptr, &call, deadline};

    if (entry == nullptr) {
        return false;
    }

    entries_.push(entry);
    return true;
}

Call *RedisCallQueue::pop(Millis &deadline) noexcept
{
    if (entries_.empty()) {
        return nullptr;
    }

    Entry *entry = entries_.pop();
    Call *call = entry->call;

    deadline = entry->deadline;
    delete entry;
    return call;
}

void RedisCallQueue::end(Entry *entry) noexcept
{
    Call *call = entry->call;

    delete entry;
    call->reply = failed_reply(Cause::timeout);
    call->ended(*call);
}

void RedisCallQueue::expire(Millis now) noexcept
{
    DeadlineQueue<Entry> expired = entries_.take_expired(now);

    while (!expired.empty()) {
        end(expired.pop());
    }
}

void RedisCallQueue::end_all() noexcept { expire(kNever); }

Millis RedisCallQueue::next_deadline() const noexcept { return entries_.next_deadline(); }

}  // namespace idempotency
