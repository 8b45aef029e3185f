// What a reply of Redis means to the command that it is the reply to.

#pragma once

#include <cstddef>
#include <string_view>

#include "redis/protocol/command.h"
#include "redis/protocol/reader.h"

namespace idempotency {

// The value in a reply.
struct RedisValue {
    std::string_view bytes;  // in the memory that Call::allocate_value gave; empty without it
    std::size_t size = 0;    // of the value, with or without memory for it
    bool has_buffer = false;
};

// Fills in `result` for the call of the command.  False where the reply does not
// fit the command.  After an error, and where the call has no memory for the value,
// it is `unavailable`, or `refused`.
bool interpret_reply(const RedisCommand &command, const ServerReply &reply, const RedisValue &value,
                     Reply &result) noexcept;

// The key has `value`, which expires in `remaining` milliseconds.
Reply found_result(const RedisValue &value, Millis remaining) noexcept;

// The size of a value that a claim has found and that is larger than `limit`, or
// 0.  Such a reply has the value's PTTL as text in the place of the value.
std::size_t too_large_size(const RedisCommand &command, const ServerReply &reply,
                           std::size_t limit) noexcept;

// Reads a PTTL in decimal digits: `remaining` is in milliseconds, and 0 for -1
// (the key does not expire).  False where `text` is no number.
bool parse_pttl(std::string_view text, Millis &remaining) noexcept;

// Redis will never take the value of this command, and closes the connection as soon
// as it has read the length of the value: it may reply before all of the command is
// written.
bool is_bulk_length_error(const RedisCommand &command, const ServerReply &reply) noexcept;

// What is wrong with the reply to a command of the greeting, or null.
const char *greeting_fault(const RedisCommand &command, const ServerReply &reply) noexcept;

}  // namespace idempotency
