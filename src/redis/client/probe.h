// Whether a server replies over a new connection while the one in use does not: a firewall or
// NAT may have dropped the state of that one, without a word to either end.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "redis/client/query.h"

namespace idempotency {

class RedisProbe final : private RedisQuery::Owner {
public:
    class Owner {
    public:
        // The server has replied over the new connection, some time ago: a server that works
        // again has replied over the old connection by now, too.
        virtual void probe_replied() = 0;

    protected:
        ~Owner() = default;
    };

    // Both outlive this object.
    RedisProbe(const RedisOptions &options, RedisServer &server, Owner &owner) noexcept
        : options_(options), owner_(owner), query_(options, server, kMaxReply, *this)
    {}

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;

    // Connects to the server and sends PING.  Does nothing while a probe is in progress.
    void start(RedisServer &server) noexcept;

    // Drops the probe, without `probe_replied`.
    void close() noexcept;

private:
    static constexpr std::size_t kMaxReply = 4096;

    // RedisQuery::Owner
    const char *read(RedisQuery &query, const redisReply &reply) override;
    void ended(RedisQuery &query, const char *fault, ngx_err_t error) override;

    static void on_timer(ngx_event_t *event);

    const RedisOptions &options_;
    Owner &owner_;
    RedisQuery query_;
    ngx_event_t timer_{};
};

}  // namespace idempotency
