#include "redis/protocol/command.h"

namespace idempotency {

const char *RedisCommand::name() const
{
    static constexpr const char *names[] = {"AUTH",    "SELECT", "ROLE",    "PING",
                                            "claim",   "settle", "release", "renew",
                                            "replace", "WAIT",   "GET",     "PING"};

    return names[static_cast<std::size_t>(kind)];
}

}  // namespace idempotency
