// Commands in the protocol of Redis.

#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "redis/protocol/command.h"
#include "redis/protocol/output.h"
#include "redis/protocol/script.h"

namespace idempotency {

// Appends them to an output; that says whether memory failed.
class RedisEncoder {
public:
    // All of them outlive this object.
    RedisEncoder(const RedisScripts &scripts, const RedisManner &manner,
                 RedisOutput &output) noexcept
        : scripts_(scripts), manner_(manner), output_(output)
    {}

    // One that has nothing to do with a key; words that are empty are left out.
    void put_words(std::initializer_list<std::string_view> words) noexcept;

    // Any other.  What its call has to store is referred to, see RedisOutput.
    void put(const RedisCommand &command) noexcept;

private:
    void put_number(char mark, std::uint64_t number) noexcept;
    void put_bulk(std::string_view bytes) noexcept;
    void put_bulk_number(std::uint64_t number) noexcept;
    void put_token(Token token) noexcept;
    void put_key(const KeyId &id) noexcept;
    void put_pieces(const Pieces &pieces) noexcept;
    void put_script(const RedisCommand &command, std::size_t keys, std::size_t arguments) noexcept;
    void put_claim(const RedisCommand &claim) noexcept;
    void put_settle(const RedisCommand &settle) noexcept;
    void put_release(const RedisCommand &release) noexcept;
    void put_renew(const RedisCommand &renew) noexcept;
    void put_wait() noexcept;

    const RedisScripts &scripts_;
    const RedisManner &manner_;
    RedisOutput &output_;
};

}  // namespace idempotency
