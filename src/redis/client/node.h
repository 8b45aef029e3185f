// One Redis as a worker sees it: its connections.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/connection.h"
#include "redis/client/options.h"
#include "redis/protocol/script.h"
#include "core/store.h"

namespace idempotency {

class RedisNode final : private RedisConnection::Owner {
public:
    // Whose node this is.  The node stays as it is while one of these runs: it
    // may be retargeted only where something says so.
    class Owner {
    public:
        // It is down, or does not answer in time, as one of its connections
        // sees it.
        virtual void node_lost(RedisNode &) {}

        // As RedisConnection::Owner has it.
        virtual void node_answers_again(RedisNode &) {}

        // It takes no writes: it is no master any more.  May retarget it.
        virtual void read_only(RedisNode &) {}

        // Another node has the key of a call, which is the owner's now and has
        // not ended: or of a renewal.
        virtual void redirected(RedisNode &, Call &call, Millis deadline,
                                const RedisRedirect &redirect);
        virtual void lease_redirected(RedisNode &, const Lease &, const RedisRedirect &) {}

        // Its cluster does not serve a key at the moment.
        virtual void cluster_down(RedisNode &) {}

    protected:
        ~Owner() = default;
    };

    // All four outlive this object.  Nothing is opened yet.
    RedisNode(const RedisOptions &options, RedisServer &server, const RedisScripts &scripts,
              Owner &owner) noexcept;
    ~RedisNode();
    RedisNode(const RedisNode &) = delete;
    RedisNode &operator=(const RedisNode &) = delete;

    // False where there was no memory: it is to be destroyed.
    bool usable() const { return connections_ != nullptr; }

    // `log` outlives the node.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // To another server from now on, which outlives this object.
    void retarget(RedisServer &server) noexcept;

    // As Store has them.
    bool start(Call &call) noexcept;
    void renew(const Lease *leases, std::size_t count) noexcept;

    // The same until `deadline`; `asking` as RedisPipeline::start has it.
    bool start(Call &call, Millis deadline, bool asking) noexcept;

    // All connections are in order, as far as is known.
    bool answers() const noexcept;

    // Nothing is waited for, not even an answer that comes late.
    bool idle() const noexcept;

    RedisServer &server() const { return *server_; }

private:
    // RedisConnection::Owner
    bool down(RedisConnection &connection) override;
    bool up(RedisConnection &connection) override;
    void stands_still(RedisConnection &connection) override;
    void answers_again(RedisConnection &connection) override;
    void read_only(RedisConnection &connection) override;
    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override;
    void lease_redirected(const Lease &lease, const RedisRedirect &redirect) override;
    void rerouted(Call &call, Millis deadline) override;
    void cluster_down() override;

    RedisConnection &connection_of(const Call &call) noexcept;
    RedisConnection &bulk() noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Owner &owner_;
    RedisConnection *connections_;
    RedisConnection bulk_;       // for what is large, so that nobody waits behind it
    bool bulk_is_open_ = false;  // it is only opened when it is needed
    ngx_uint_t down_ = 0;        // how many connections are
    ngx_log_t *log_ = nullptr;
};

}  // namespace idempotency
