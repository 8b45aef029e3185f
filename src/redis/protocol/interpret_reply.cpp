#include "redis/protocol/interpret_reply.h"

#include <algorithm>
#include <charconv>

#include "core/record.h"

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

bool begins_with(std::string_view text, std::string_view begin)
{
    return text.substr(0, begin.size()) == begin;
}

// Whether an error says that Redis did not run the command, or did not change the key.
// Any other may come from a proxy which has lost the reply of Redis.
bool says_nothing_changed(std::string_view code)
{
    static constexpr std::string_view codes[] = {
        "OOM",    "READONLY",  "LOADING",  "CLUSTERDOWN", "NOREPLICAS", "MISCONF",  "NOPERM",
        "NOAUTH", "WRONGTYPE", "NOSCRIPT", "BUSY",        "CROSSSLOT",  "TRYAGAIN", "MASTERDOWN",
    };

    return std::find(std::begin(codes), std::end(codes), code) != std::end(codes);
}

void interpret_error(const RedisCommand &command, const ServerReply &error, Reply &result)
{
    if (is_bulk_length_error(command, error)
        || (command.kind == RedisCommand::Kind::settle
            && begins_with(error.text, "ERR string exceeds maximum allowed size")))
    {
        result.verdict = Verdict::refused;

    } else if (command.kind == RedisCommand::Kind::claim
               && error.code == std::string_view("WRONGTYPE")) {
        // the key has a value that is no string, so no record
        result.verdict = Verdict::unreadable;

    } else if (!says_nothing_changed(error.code) && !begins_with(error.text, "ERR unknown command"))
    {
        result = command.unknown_result();
    }

    if (result.verdict == Verdict::unavailable) {
        result.cause = cause_of_code(error.code);
    }
}

}  // namespace

bool is_bulk_length_error(const RedisCommand &command, const ServerReply &reply) noexcept
{
    return command.kind == RedisCommand::Kind::settle && reply.kind == ServerReply::Kind::error
           && begins_with(reply.text, "ERR Protocol error: invalid bulk length");
}

bool interpret_reply(const RedisCommand &command, const ServerReply &reply, const RedisValue &value,
                     Reply &result) noexcept
{
    switch (reply.kind) {
    case ServerReply::Kind::error:
        interpret_error(command, reply, result);
        return true;

    case ServerReply::Kind::pair:
        if (command.kind != RedisCommand::Kind::claim || reply.integer < -1) {
            return false;
        }

        // the call has no memory for the value, or has ended, and its memory with it
        if (!value.has_buffer || command.call == nullptr) {
            result.cause = Cause::corrupt;
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
        if (command.call != nullptr && command.call->only_looks_up()) {
            if (reply.integer != 0) {
                return false;
            }

            result.verdict = Verdict::gone;
            return true;
        }

        result.verdict = Verdict::claimed;
        result.token = command.token != 0 ? command.token : static_cast<Token>(reply.integer);
        return command.token != 0 ? reply.integer == 1 : reply.integer > 0;

    case RedisCommand::Kind::renew:
    case RedisCommand::Kind::replace:
        result.verdict = reply.integer == 1    ? Verdict::done
                         : reply.integer == -1 ? Verdict::gone
                                               : Verdict::lost;
        return reply.integer >= -1 && reply.integer <= 1;

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

    if (value.bytes.size() >= kTokenOffset + sizeof(Token)) {
        result.token = token_of(value.bytes);
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
