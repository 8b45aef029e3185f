// The store that is a Redis Cluster, as a worker sees it.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/inquiry.h"
#include "redis/client/members.h"
#include "redis/client/options.h"
#include "redis/client/waiting_room.h"
#include "redis/protocol/pace.h"
#include "redis/protocol/script.h"
#include "redis/protocol/slots.h"
#include "core/store.h"

namespace idempotency {

// Each call goes to the node that has the slot of its key.  The map of slots
// comes from any node; it is asked for again when something does not fit it any
// more, and now and then.
class RedisCluster final : public Store, private RedisNode::Owner, private RedisInquiry::Owner {
public:
    // `options` is copied; what it points to outlives this object.
    explicit RedisCluster(const RedisOptions &options) noexcept;

    // Why it cannot be used, or null.
    const char *fault() const;

    bool open() override;
    void close() override;
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;
    void watch(StoreWatcher *watcher) override { watcher_ = watcher; }
    StoreFigures figures() override;

private:
    enum class State {
        closed,
        searching,  // there is no map yet: calls wait
        lost,       // and none of the servers gave one: calls end at once
        known,
    };

    // RedisNode::Owner
    void node_lost(RedisNode &node) override;
    void node_answers_again(RedisNode &node) override;
    void read_only(RedisNode &node) override;
    void redirected(RedisNode &node, Call &call, Millis deadline,
                    const RedisRedirect &redirect) override;
    void lease_redirected(RedisNode &node, const Lease &lease,
                          const RedisRedirect &redirect) override;
    void cluster_down(RedisNode &node) override;

    // RedisInquiry::Owner
    const char *read(RedisInquiry &inquiry, const redisReply &reply) override;
    void ended(RedisInquiry &inquiry, const char *fault, ngx_err_t error) override;

    static void on_refresh(ngx_event_t *event);
    static void on_sweep(ngx_event_t *event);

    RedisNode *follow(RedisNode &from, const KeyId &id, const RedisRedirect &redirect) noexcept;
    void end_waiting() noexcept;

    void refresh_soon() noexcept;
    void refresh() noexcept;
    bool ask_next() noexcept;
    void take_map(const RedisServer &teller) noexcept;
    void note_failure(const char *why, ngx_err_t error) noexcept;

    RedisOptions options_;
    RedisScripts scripts_;
    RedisSlotter slotter_;
    RedisMembers members_;
    RedisWaitingRoom waiting_;

    State state_ = State::closed;
    StoreWatcher *watcher_ = nullptr;
    ngx_log_t *log_ = nullptr;

    RedisInquiry inquiry_;
    RedisSlotMap map_;            // as told last
    ngx_uint_t round_ = 0;        // counts refreshes
    ngx_uint_t nodes_asked_ = 0;  // in this one
    ngx_uint_t seeds_asked_ = 0;
    ngx_uint_t first_seed_ = 0;
    bool again_ = false;  // something came up while it was under way
    bool failure_logged_ = false;
    RedisPace pace_;

    ngx_event_t refresh_timer_{};
    ngx_event_t sweep_timer_{};
};

}  // namespace idempotency
