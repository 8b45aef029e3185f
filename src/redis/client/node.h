// One Redis server as one worker sees it: its connections.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/connection.h"
#include "redis/client/options.h"
#include "redis/client/server_check.h"
#include "redis/protocol/script.h"
#include "core/store.h"

namespace idempotency {

class RedisNode final : private RedisConnection::Owner {
public:
    // The store that the node belongs to.  From within these functions the node must
    // not be closed or freed, and `retarget` is allowed only where it says so.
    class Owner {
    public:
        // One of the connections has found the server down or stalled.
        virtual void node_unavailable(RedisNode &) {}

        // See RedisConnection::Owner::available_again.
        virtual void node_available(RedisNode &) {}

        // The server takes no writes: it is not the master any more.  `retarget` may
        // be called.
        virtual void read_only(RedisNode &) {}

        // Another node has the key of a call.  The call has not ended and belongs to the
        // owner now; by default it ends as `unavailable`, and an error is logged: the store
        // is not configured as a cluster.
        virtual void redirected(RedisNode &node, Call &call, Millis deadline,
                                const RedisRedirect &redirect);

        // The cluster does not serve a key at the moment.
        virtual void cluster_down(RedisNode &) {}

    protected:
        ~Owner() = default;
    };

    // All four outlive this object.  No connection is opened yet.
    RedisNode(const RedisOptions &options, RedisServer &server, const RedisScripts &scripts,
              Owner &owner) noexcept;
    ~RedisNode();
    RedisNode(const RedisNode &) = delete;
    RedisNode &operator=(const RedisNode &) = delete;

    // False where there was no memory: the node must be destroyed.
    bool usable() const { return connections_ != nullptr; }

    // `log` outlives the node.  `on_demand`: each connection is opened by the first call that
    // needs it; the one for large values always is.
    void open(ngx_log_t *log, bool on_demand) noexcept;

    // Every call ends, as `unavailable`: see RedisConnection::close.
    void close() noexcept;

    // To another server from now on, which outlives this object.
    void retarget(RedisServer &server) noexcept;

    // See Store.
    bool start(Call &call) noexcept;

    // The same with a deadline; `asking`: see RedisPipeline::start.
    bool start(Call &call, Millis deadline, bool asking) noexcept;

    // No connection is down or stalled, as far as is known.
    bool is_available() const noexcept;

    // No call waits, and no reply is outstanding.
    bool idle() const noexcept;

    RedisServer &server() const { return *server_; }

    // For the metrics.
    NodeState state() const noexcept;

    // The server has replied MOVED or ASK, and the store is not configured as a cluster.
    void report_cluster() noexcept;

private:
    // RedisConnection::Owner
    bool connection_down(RedisConnection &connection) override;
    bool connection_up(RedisConnection &connection) override;
    void stalled(RedisConnection &connection) override;
    void available_again(RedisConnection &connection) override;
    void read_only(RedisConnection &connection) override;
    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override;
    void rerouted(Call &call, Millis deadline) override;
    void cluster_down() override;

    RedisConnection &connection_of(const Call &call) noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Owner &owner_;
    RedisConnection *connections_;
    RedisConnection bulk_;  // for large values, so that other calls do not wait behind them
    RedisServerCheck check_;
    bool is_open_ = false;
    ngx_uint_t down_ = 0;           // how many connections are down
    bool is_cluster_ = false;       // it replied MOVED less than kClusterInterval ago
    ngx_msec_t cluster_since_ = 0;  // when the last line about this was logged
    ngx_log_t *log_ = nullptr;
};

}  // namespace idempotency
