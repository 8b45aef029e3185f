// Listens to all sentinels of a store: each publishes a message when it has followed a change of
// the master.

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "redis/client/options.h"
#include "redis/client/query.h"
#include "redis/client/sentinel_list.h"
#include "redis/protocol/backoff.h"

namespace idempotency {

// A message is only a reason to query the sentinels: what it says is not believed.
class RedisSentinelWatch {
public:
    class Owner {
    public:
        // A sentinel has a new master, or may have had one before it was listened to.  No
        // connection may be opened or closed from within.
        virtual void master_may_have_changed() = 0;

    protected:
        ~Owner() = default;
    };

    // All three outlive this object.
    RedisSentinelWatch(const RedisOptions &options, const RedisSentinelList &sentinels,
                       Owner &owner) noexcept;
    ~RedisSentinelWatch();
    RedisSentinelWatch(const RedisSentinelWatch &) = delete;
    RedisSentinelWatch &operator=(const RedisSentinelWatch &) = delete;

    // False where there was no memory.
    bool usable() const { return first_ != nullptr; }

    // `log` outlives this object.
    void open(ngx_log_t *log) noexcept;
    void close() noexcept;

private:
    // The subscription to one sentinel, which is renewed when it is lost.
    class Subscription;

    std::size_t count_;
    Subscription *first_;
};

}  // namespace idempotency
