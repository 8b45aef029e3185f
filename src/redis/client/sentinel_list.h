// The sentinels of a store: one for each address that its URLs have.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"

namespace idempotency {

// A URL may be one name for all sentinels.  Each of its addresses has a vote, and each address
// that several URLs have has only one.
class RedisSentinelList {
public:
    // What `options` points to outlives this object.
    explicit RedisSentinelList(const RedisOptions &options) noexcept;
    ~RedisSentinelList();
    RedisSentinelList(const RedisSentinelList &) = delete;
    RedisSentinelList &operator=(const RedisSentinelList &) = delete;

    // False where there was no memory.
    bool usable() const { return first_ != nullptr; }

    std::size_t count() const { return count_; }
    RedisServer &operator[](std::size_t index) const { return first_[index]; }

private:
    bool has(const ngx_addr_t &address) const noexcept;

    RedisServer *first_ = nullptr;
    std::size_t count_ = 0;
};

}  // namespace idempotency
