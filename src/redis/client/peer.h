// A server that is heard of at run time: from a cluster or from a sentinel.

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "redis/client/options.h"
#include "redis/protocol/slots.h"

namespace idempotency {

// Has all that its RedisServer points to.
class RedisPeer {
public:
    RedisPeer() = default;
    ~RedisPeer();
    RedisPeer(const RedisPeer &) = delete;
    RedisPeer &operator=(const RedisPeer &) = delete;

    // `teller` is who named it: a host that is left out is the teller's own.
    // The addresses of a name that the configuration has too are known from the
    // start; others have none, and are up to the resolver.  False where there
    // is no memory, or the teller has no host.
    bool set(const RedisEndpoint &endpoint, const RedisServer &teller,
             const RedisOptions &options) noexcept;

    // Whether `set` with these would change nothing.
    bool is(const RedisEndpoint &endpoint, const RedisServer &teller) const noexcept;

    RedisServer &server() { return server_; }
    const RedisServer &server() const { return server_; }

private:
    struct Address;

    void write_name() noexcept;
    bool set_address() noexcept;
    bool copy_addresses(const RedisServer &known) noexcept;
    bool make_room(ngx_uint_t count) noexcept;
    void fill(ngx_uint_t index, const sockaddr *from, socklen_t length) noexcept;

    RedisServer server_;
    u_char host_[kLongestRedisHost + 1];
    u_char name_[kLongestRedisHost + sizeof("[]:65535")];
    ngx_addr_t *addresses_ = nullptr;
    Address *storage_ = nullptr;
};

}  // namespace idempotency
