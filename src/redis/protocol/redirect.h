// The redirections of a Redis Cluster: MOVED and ASK.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

constexpr unsigned kRedisSlots = 16384;
constexpr std::size_t kMaxRedisHost = 255;

struct RedisRedirect {
    bool ask = false;  // ASK: only this command goes there, after ASKING; else MOVED
    unsigned slot = 0;
    std::string_view host;  // without brackets; empty: the host of the replying node
    std::uint16_t port = 0;
};

// Reads an error such as "MOVED 3999 127.0.0.1:6381" or "ASK 5 [host]:6381".  The
// port follows the last colon, so an IPv6 address needs no brackets.  False where
// the error is no redirection.  `out.host` points into `error`.
bool parse_redis_redirect(std::string_view error, RedisRedirect &out) noexcept;

}  // namespace idempotency
