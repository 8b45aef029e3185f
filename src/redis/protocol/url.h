// The URL of a Redis, as in the directive `redis`.

#pragma once

#include <cstdint>
#include <string_view>

namespace idempotency {

constexpr std::uint16_t kRedisPort = 6379;

struct RedisUrl {
    bool unix_socket = false;  // `host` is then the path of the socket
    bool tls = false;
    bool has_database = false;  // the URL has a database; else `database` is 0

    std::string_view host;  // an IPv6 address without its brackets
    std::uint16_t port = kRedisPort;
    std::string_view user;  // percent-decoded; empty where the URL has none
    std::string_view password;
    std::uint32_t database = 0;
};

// Reads `redis://[user:password@]host[:port][/db]`, the same with `rediss://`
// for TLS, or `unix:/path[?db=N]`.
//
// `buffer` has url.size() bytes and takes what is percent-decoded.  The views in
// `out` point into `buffer` and `url`, which must outlive `out`.  Returns null
// where the URL is valid; else what is wrong and what is right, in a text that
// repeats no part of the URL, which may have a password.
const char *parse_redis_url(std::string_view url, char *buffer, RedisUrl &out) noexcept;

}  // namespace idempotency
