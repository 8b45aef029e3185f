// Encodes commands in RESP, the protocol of Redis.

#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "redis/protocol/command.h"
#include "redis/protocol/output.h"
#include "redis/protocol/script.h"

namespace idempotency {

// Appends commands to a RedisOutput, whose `failed` tells where there was no
// memory.
class RedisEncoder {
public:
    // All three outlive this object.
    RedisEncoder(const RedisScripts &scripts, const RedisPipelineOptions &options,
                 RedisOutput &output) noexcept
        : scripts_(scripts), options_(options), output_(output)
    {}

    // A command without a key; empty words are left out.
    void put_words(std::initializer_list<std::string_view> words) noexcept;

    // Any command.  Large parts of the value of its call are referred to, not
    // copied: see RedisOutput.
    void put(const RedisCommand &command) noexcept;

private:
    void put_number(char mark, std::uint64_t number) noexcept;
    void put_bulk(std::string_view bytes) noexcept;
    void put_bulk_number(std::uint64_t number) noexcept;
    void put_token(Token token) noexcept;
    void put_claim_id(const RedisCommand &command) noexcept;
    void put_key(const KeyId &id) noexcept;
    void put_pieces(const Pieces &pieces) noexcept;
    void put_script(const RedisCommand &command, std::size_t arguments) noexcept;
    void put_claim(const RedisCommand &claim) noexcept;
    void put_settle(const RedisCommand &settle) noexcept;
    void put_release(const RedisCommand &release) noexcept;
    void put_renew(const RedisCommand &renew) noexcept;
    void put_replace(const RedisCommand &replace) noexcept;
    void put_wait() noexcept;

    const RedisScripts &scripts_;
    const RedisPipelineOptions &options_;
    RedisOutput &output_;
};

}  // namespace idempotency
