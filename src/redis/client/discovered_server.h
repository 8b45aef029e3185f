// A server that a node of a cluster or a sentinel has named at run time.

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "redis/client/options.h"
#include "redis/protocol/slots.h"

namespace idempotency {

// Owns the RedisServer and all that it points to.
class RedisDiscoveredServer {
public:
    RedisDiscoveredServer() = default;
    ~RedisDiscoveredServer();
    RedisDiscoveredServer(const RedisDiscoveredServer &) = delete;
    RedisDiscoveredServer &operator=(const RedisDiscoveredServer &) = delete;

    // `source` is the server that has named `endpoint`: where that has no host, it is
    // the host of `source`.  Where the host is a name that the configuration has,
    // too, it has the addresses from there; another name has no addresses yet, and
    // is resolved by nginx's `resolver`.  False where there is no memory, or no
    // host is known.
    bool set(const RedisEndpoint &endpoint, const RedisServer &source,
             const RedisOptions &options) noexcept;

    // Whether it is the server that `endpoint`, named by `source`, stands for.
    bool is(const RedisEndpoint &endpoint, const RedisServer &source) const noexcept;

    RedisServer &server() { return server_; }
    const RedisServer &server() const { return server_; }

private:
    struct AddressStorage;

    void write_name() noexcept;
    bool set_literal_address() noexcept;
    bool copy_addresses(const RedisServer &known) noexcept;
    bool allocate(ngx_uint_t count) noexcept;
    void set_address(ngx_uint_t index, const sockaddr *from, socklen_t length) noexcept;

    RedisServer server_;
    u_char host_[kMaxRedisHost + 1];
    u_char name_[kMaxRedisHost + sizeof("[]:65535")];
    ngx_addr_t *addresses_ = nullptr;
    AddressStorage *storage_ = nullptr;
};

}  // namespace idempotency
