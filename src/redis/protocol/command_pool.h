// The memory of a pipeline's commands.

#pragma once

#include "core/free_list.h"
#include "redis/protocol/command.h"

namespace idempotency {

// Every command of a pipeline comes from here and goes back to here.
class RedisCommandPool {
public:
    // Null where there is no memory.
    RedisCommand *make(RedisCommand::Kind kind, Millis deadline) noexcept
    {
        RedisCommand *command = unused_.take();

        if (command != nullptr) {
            *command = RedisCommand();
            command->kind = kind;
            command->deadline = deadline;
        }

        return command;
    }

    // The command is in no queue.
    void recycle(RedisCommand *command) noexcept { unused_.give(command); }

    // Recycles the command, then ends its call, if there is one, with `result`, and those of its
    // followers.  Call::ended may start other calls.
    void end(RedisCommand *command, const Reply &result) noexcept;

    // The commands that share the reply to this one, which are the caller's now.
    static RedisCommandQueue take_followers(RedisCommand &command) noexcept;

    // Ends them with the result of the command that they share the reply to.
    void end_followers(RedisCommandQueue followers, const Reply &result, Millis until) noexcept;

    // Ends all of them as `unavailable`: commands that were not sent, or commands
    // that were sent and whose outcome is not known.
    void end_unsent(RedisCommandQueue commands, Cause cause) noexcept;
    void end_unknown(RedisCommandQueue commands, Cause cause) noexcept;

private:
    FreeList<RedisCommand> unused_;
};

}  // namespace idempotency
