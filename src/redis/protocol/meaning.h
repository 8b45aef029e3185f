// What an answer of Redis means to the command that it is the answer to.

#pragma once

#include <cstddef>
#include <string_view>

#include "redis/protocol/command.h"
#include "redis/protocol/reader.h"

namespace idempotency {

// The value of an answer.
struct RedisValue {
    std::string_view bytes;  // in the call's room
    std::size_t size = 0;    // even where there is no room
    bool has_room = false;
};

// False where the answer is none to this command.  An error leaves `reply` as
// it is, and so does a value that there is no room for.
bool read_reply(const RedisCommand &command, const RedisAnswer &answer, const RedisValue &value,
                Reply &reply) noexcept;

// That the key is taken by the value, which ends in `remaining`.
Reply found_reply(const RedisValue &value, Millis remaining) noexcept;

// The size of a value that a claim has found and that is larger than `limit`, or
// 0: it was not sent along, but how much of its life is left was.
std::size_t size_of_too_large(const RedisCommand &command, const RedisAnswer &answer,
                              std::size_t limit) noexcept;

// What PTTL said, as text; -1, no end, counts as none left.  False where it is
// no number.
bool read_left(std::string_view text, Millis &left) noexcept;

// What is wrong with the answer to a command that greets, or null.
const char *fault_of_greeting(const RedisCommand &command, const RedisAnswer &answer) noexcept;

}  // namespace idempotency
