// The scripts that Redis runs, each one round trip.
//
// A script declares every key that it touches, and it writes what it computed:
// Redis sends its effects to replicas, not the script, so the clock may be read.

#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace idempotency {

enum class RedisScript {
    // KEYS: key; ARGV: record, lease, the token that is wanted or an empty
    // string, the largest value that is returned or 0.  The token, 1 where one
    // was wanted; {value, PTTL}; or of a larger value {PTTL, its size below 0}.
    claim,
    settle,   // KEYS: key; ARGV: token, record, lifetime.  1 written, 0 lost
    release,  // KEYS: key; ARGV: token.  1 freed, 0 lost
    renew,    // KEYS: keys; ARGV: token and lease of each.  How many were renewed
};

constexpr std::size_t kRedisScripts = 4;

std::string_view script_text(RedisScript script);

// The digests that EVALSHA names the scripts by.
class RedisScripts {
public:
    RedisScripts() noexcept;

    // False where OpenSSL gave no SHA-1.
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
