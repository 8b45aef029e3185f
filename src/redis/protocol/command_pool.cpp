#include "redis/protocol/command_pool.h"

namespace idempotency {

void RedisCommandPool::end(RedisCommand *command, const Reply &result) noexcept
{
    Call *call = command->call;

    recycle(command);

    if (call != nullptr) {
        call->reply = result;
        call->ended(*call);
    }
}

void RedisCommandPool::end_unsent(RedisCommandQueue commands) noexcept
{
    while (!commands.empty()) {
        end(commands.pop(), Reply());
    }
}

void RedisCommandPool::end_unknown(RedisCommandQueue commands) noexcept
{
    while (!commands.empty()) {
        RedisCommand *command = commands.pop();

        end(command, command->unknown_result());
    }
}

}  // namespace idempotency
