#include "redis/protocol/interpret_reply.h"

#include <charconv>

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr const char *kNoGreeting = "it does not reply to the greeting as Redis does";

// What is wrong with the reply to ROLE; null where the server is a master.
const char *role_fault(const ServerReply &reply)
{
    bool is_role = reply.kind == ServerReply::Kind::list || reply.kind == ServerReply::Kind::pair;

    if (!is_role) {
        return kNoGreeting;
    }

    return reply.text == "master"  ? nullptr
           : reply.text == "slave" ? "it is a replica"
                                   : "it is not a master";
}

}  // namespace

bool interpret_reply(const RedisCommand &command, const ServerReply &reply, const RedisValue &value,
                     Reply &result) noexcept
{
    switch (reply.kind) {
    case ServerReply::Kind::error:
        return true;

    case ServerReply::Kind::pair:
        if (command.kind != RedisCommand::Kind::claim || reply.integer < -1) {
            return false;
        }

        // the call has no memory for the value, or has ended, and its memory with it
        if (!value.has_buffer || command.call == nullptr) {
            return true;
        }

        result = found_result(value, reply.integer > 0 ? static_cast<Millis>(reply.integer) : 0);
        return true;

    case ServerReply::Kind::integer:
        break;

    default:
        return false;
    }

    switch (command.kind) {
    case RedisCommand::Kind::claim:
        result.verdict = Verdict::claimed;
        result.token = command.token != 0 ? command.token : static_cast<Token>(reply.integer);
        return command.token != 0 ? reply.integer == 1 : reply.integer > 0;

    case RedisCommand::Kind::renew:
        return reply.integer >= 0;

    default:
        result.verdict = reply.integer == 1 ? Verdict::done : Verdict::lost;
        return reply.integer == 0 || reply.integer == 1;
    }
}

Reply found_result(const RedisValue &value, Millis remaining) noexcept
{
    Reply result;

    result.verdict = Verdict::found;
    result.value = value.bytes;
    result.remaining = remaining;

    if (value.bytes.size() >= kTokenOffset + kTokenSize) {
        result.token = wire::get_u64(reinterpret_cast<const unsigned char *>(value.bytes.data())
                                     + kTokenOffset);
    }

    return result;
}

std::size_t too_large_size(const RedisCommand &command, const ServerReply &reply,
                           std::size_t limit) noexcept
{
    bool is_too_large = command.kind == RedisCommand::Kind::claim
                        && reply.kind == ServerReply::Kind::pair && limit > 0
                        && reply.integer < -static_cast<long long>(limit);

    return is_too_large ? -static_cast<std::size_t>(reply.integer) : 0;
}

bool parse_pttl(std::string_view text, Millis &remaining) noexcept
{
    long long value = 0;
    const char *end = text.data() + text.size();
    auto read = std::from_chars(text.data(), end, value);

    remaining = value > 0 ? static_cast<Millis>(value) : 0;
    return !text.empty() && read.ec == std::errc() && read.ptr == end;
}

const char *greeting_fault(const RedisCommand &command, const ServerReply &reply) noexcept
{
    if (reply.kind == ServerReply::Kind::error) {
        return "it refuses the connection";
    }

    if (command.kind == RedisCommand::Kind::role) {
        return role_fault(reply);
    }

    return reply.kind == ServerReply::Kind::status ? nullptr : kNoGreeting;
}

}  // namespace idempotency
