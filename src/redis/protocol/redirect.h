// Where a node of a cluster sends a command that it does not serve itself.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

constexpr unsigned kRedisSlots = 16384;
constexpr std::size_t kLongestRedisHost = 255;

struct RedisRedirect {
    bool ask = false;  // this command alone, after an ASKING; else the slot has moved
    unsigned slot = 0;
    std::string_view host;  // without brackets; empty: the host that answers
    std::uint16_t port = 0;
};

// Reads an error as in "MOVED 3999 127.0.0.1:6381" or "ASK 5 [host]:6381"; the
// last colon is the port's, so that an IPv6 address needs no brackets.  False
// where it is no redirection.  `out.host` lies in `error`.
bool parse_redis_redirect(std::string_view error, RedisRedirect &out) noexcept;

}  // namespace idempotency
