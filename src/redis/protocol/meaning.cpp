#include "redis/protocol/meaning.h"

#include <charconv>

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr const char *kNoGreeting = "it does not greet as Redis does";

// The answer to ROLE: null where it is a master.
const char *fault_of_role(const RedisAnswer &answer)
{
    bool is_role = answer.kind == RedisAnswer::Kind::list || answer.kind == RedisAnswer::Kind::pair;

    if (!is_role) {
        return kNoGreeting;
    }

    return answer.text == "master"  ? nullptr
           : answer.text == "slave" ? "it is a replica"
                                    : "it is no master";
}

}  // namespace

bool read_reply(const RedisCommand &command, const RedisAnswer &answer, const RedisValue &value,
                Reply &reply) noexcept
{
    switch (answer.kind) {
    case RedisAnswer::Kind::error:
        return true;

    case RedisAnswer::Kind::pair:
        if (command.kind != RedisCommand::Kind::claim || answer.integer < -1) {
            return false;
        }

        // the room for the value was the call's, and is gone with it
        if (!value.has_room || command.call == nullptr) {
            return true;
        }

        reply = found_reply(value, answer.integer > 0 ? static_cast<Millis>(answer.integer) : 0);
        return true;

    case RedisAnswer::Kind::integer:
        break;

    default:
        return false;
    }

    switch (command.kind) {
    case RedisCommand::Kind::claim:
        reply.verdict = Verdict::claimed;
        reply.token = command.token != 0 ? command.token : static_cast<Token>(answer.integer);
        return command.token != 0 ? answer.integer == 1 : answer.integer > 0;

    case RedisCommand::Kind::renew:
        return answer.integer >= 0;

    default:
        reply.verdict = answer.integer == 1 ? Verdict::done : Verdict::lost;
        return answer.integer == 0 || answer.integer == 1;
    }
}

Reply found_reply(const RedisValue &value, Millis remaining) noexcept
{
    Reply reply;

    reply.verdict = Verdict::found;
    reply.value = value.bytes;
    reply.remaining = remaining;

    if (value.bytes.size() >= kTokenOffset + kTokenSize) {
        reply.token = wire::get_u64(reinterpret_cast<const unsigned char *>(value.bytes.data())
                                    + kTokenOffset);
    }

    return reply;
}

std::size_t size_of_too_large(const RedisCommand &command, const RedisAnswer &answer,
                              std::size_t limit) noexcept
{
    bool is_too_large = command.kind == RedisCommand::Kind::claim
                        && answer.kind == RedisAnswer::Kind::pair && limit > 0
                        && answer.integer < -static_cast<long long>(limit);

    return is_too_large ? -static_cast<std::size_t>(answer.integer) : 0;
}

bool read_left(std::string_view text, Millis &left) noexcept
{
    long long value = 0;
    const char *end = text.data() + text.size();
    auto read = std::from_chars(text.data(), end, value);

    left = value > 0 ? static_cast<Millis>(value) : 0;
    return !text.empty() && read.ec == std::errc() && read.ptr == end;
}

const char *fault_of_greeting(const RedisCommand &command, const RedisAnswer &answer) noexcept
{
    if (answer.kind == RedisAnswer::Kind::error) {
        return "it refuses the connection";
    }

    if (command.kind == RedisCommand::Kind::role) {
        return fault_of_role(answer);
    }

    return answer.kind == RedisAnswer::Kind::status ? nullptr : kNoGreeting;
}

}  // namespace idempotency
