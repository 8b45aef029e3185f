// The Lua scripts that Redis runs, each in one round trip.
//
// A script has one key, which it declares: so it also runs behind a proxy that finds
// the server by the key.  It may read the clock, as Redis sends the effects of a
// script to replicas, not the script.

#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace idempotency {

enum class RedisScript {
    // ARGV: record, lifetime (ms), the wanted token or an empty string, the largest
    // value that is returned (bytes) or 0.
    // Claimed: the new token, or 1 where a token was wanted.
    // Found: {value, PTTL}; where the value is larger: {PTTL as text, -size}.
    // Without a record the key is only looked up: 0 where there is none.  A record in state
    // `freed` counts as none.
    claim,
    settle,   // ARGV: claim id, record, lifetime (ms).  1 written, 0 lost
    release,  // ARGV: claim id.  1 deleted, 0 lost
    renew,    // ARGV: claim id, lifetime (ms).  1 renewed, 0 lost, -1 no such key
    replace,  // ARGV: state and claim id that were seen or an empty string, record or an empty
              // string, lifetime (ms), the longest time left (ms) or an empty string.  1 replaced
              // or deleted, 0 the key has another value, -1 no such key
};

constexpr std::size_t kRedisScripts = 5;

std::string_view script_text(RedisScript script);

// The SHA-1 digests of the scripts, for EVALSHA.
class RedisScripts {
public:
    RedisScripts() noexcept;

    // False where OpenSSL has no SHA-1.
    bool usable() const { return usable_; }

    // 40 hexadecimal digits.
    std::string_view sha(RedisScript script) const
    {
        const Sha &sha = shas_[static_cast<std::size_t>(script)];
        return {sha.data(), sha.size()};
    }

private:
    using Sha = std::array<char, 40>;

    std::array<Sha, kRedisScripts> shas_{};
    bool usable_ = false;
};

}  // namespace idempotency
