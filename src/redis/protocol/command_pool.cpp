#include "redis/protocol/command_pool.h"

#include <cstring>

namespace idempotency {

void RedisCommandPool::end(RedisCommand *command, const Reply &result) noexcept
{
    Call *call = command->call;
    RedisCommandQueue followers = take_followers(*command);
    Millis until = call != nullptr ? call->large_until : 0;

    recycle(command);

    // `result` may be in memory of the first call, which is valid only until that has ended
    end_followers(followers, result, until);

    if (call != nullptr) {
        call->reply = result;
        call->ended(*call);
    }
}

RedisCommandQueue RedisCommandPool::take_followers(RedisCommand &command) noexcept
{
    RedisCommandQueue followers;

    while (RedisCommand *follower = command.followers) {
        command.followers = follower->next;
        followers.push(follower);
    }

    return followers;
}

void RedisCommandPool::end_followers(RedisCommandQueue followers, const Reply &result,
                                     Millis until) noexcept
{
    while (!followers.empty()) {
        RedisCommand *follower = followers.pop();
        Call &call = *follower->call;
        Reply copy = result;

        if (result.verdict == Verdict::found) {
            char *value = call.allocate_value(call, result.value.size());

            if (value != nullptr) {
                std::memcpy(value, result.value.data(), result.value.size());
                copy.value = {value, result.value.size()};
                copy.remaining += call.large_until > until ? call.large_until - until : 0;
            } else {
                copy = Reply();
            }
        }

        recycle(follower);
        call.reply = copy;
        call.ended(call);
    }
}

void RedisCommandPool::end_unsent(RedisCommandQueue commands, Cause cause) noexcept
{
    while (!commands.empty()) {
        RedisCommand *command = commands.pop();

        end(command, command->was_sent ? command->unknown_result(cause) : failed_reply(cause));
    }
}

void RedisCommandPool::end_unknown(RedisCommandQueue commands, Cause cause) noexcept
{
    while (!commands.empty()) {
        RedisCommand *command = commands.pop();

        end(command, command->unknown_result(cause));
    }
}

}  // namespace idempotency
