#include "store/redis_command.h"

#include <algorithm>

namespace idempotency {

const char *RedisCommand::name() const
{
    static constexpr const char *names[] = {"AUTH",    "SELECT", "ROLE", "PING", "claim", "settle",
                                            "release", "renew",  "WAIT", "GET"};

    return names[static_cast<std::size_t>(kind)];
}

void RedisCommandQueue::push(RedisCommand *command) noexcept
{
    command->next = nullptr;

    if (last_ != nullptr) {
        last_->next = command;
    } else {
        first_ = command;
    }

    last_ = command;
}

RedisCommand *RedisCommandQueue::pop() noexcept
{
    RedisCommand *command = first_;

    first_ = command->next;

    if (first_ == nullptr) {
        last_ = nullptr;
    }

    return command;
}

RedisCommandQueue RedisCommandQueue::take() noexcept
{
    RedisCommandQueue all = *this;

    *this = RedisCommandQueue();
    return all;
}

RedisCommandQueue RedisCommandQueue::take_expired(Millis now) noexcept
{
    RedisCommandQueue all = take();
    RedisCommandQueue expired;

    while (!all.empty()) {
        RedisCommand *command = all.pop();

        (command->deadline > now ? *this : expired).push(command);
    }

    return expired;
}

Millis RedisCommandQueue::next_deadline() const noexcept
{
    Millis next = kNever;

    for (const RedisCommand *at = first_; at != nullptr; at = at->next) {
        if (!at->late) {
            next = std::min(next, at->deadline);
        }
    }

    return next;
}

}  // namespace idempotency
