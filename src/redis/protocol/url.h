// The address of a Redis, as a user writes it.

#pragma once

#include <cstdint>
#include <string_view>

namespace idempotency {

constexpr std::uint16_t kRedisPort = 6379;

struct RedisUrl {
    bool unix_socket = false;  // `host` is then the path of the socket
    bool tls = false;
    bool has_database = false;  // the URL names one; else it is 0

    std::string_view host;  // of an IPv6 address without its brackets
    std::uint16_t port = kRedisPort;
    std::string_view user;  // percent-decoded; empty where the URL has none
    std::string_view password;
    std::uint32_t database = 0;
};

// Reads `redis://[user:password@]host[:port][/db]`, the same with `rediss://`
// for TLS, or `unix:/path[?db=N]`.
//
// `room` has space for url.size() bytes; what had to be decoded lies there, the
// rest in `url`: both outlive `out`.  Null where the URL is well-formed, else
// what is wrong and what would be right, in words that repeat nothing of it.
const char *parse_redis_url(std::string_view url, char *room, RedisUrl &out) noexcept;

}  // namespace idempotency
