// The store that is a Redis Cluster, as one worker sees it.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/key_scan.h"
#include "redis/client/query.h"
#include "redis/client/cluster_nodes.h"
#include "redis/client/options.h"
#include "redis/client/waiting_calls.h"
#include "redis/protocol/backoff.h"
#include "redis/protocol/script.h"
#include "redis/protocol/slots.h"
#include "core/store.h"

namespace idempotency {

// Each call goes to the node that has the slot of its key.  Any node sends the map
// of slots (CLUSTER SLOTS); the map is refreshed when a reply shows that it is
// outdated, when a node is lost, and from time to time.
class RedisCluster final : public Store, private RedisNode::Owner, private RedisQuery::Owner {
public:
    // `options` is copied; what it points to outlives this object.
    explicit RedisCluster(const RedisOptions &options) noexcept;

    // Why it cannot be used, or null.
    const char *fault() const;

    bool open() override;
    void close() override;
    bool start(Call &call) override;
    void watch(StoreWatcher *watcher) override { watcher_ = watcher; }
    bool walk(WalkStep &step) override;
    StoreFigures figures() override;
    std::size_t nodes(NodeState *out, std::size_t max) override;

private:
    enum class State {
        closed,
        searching,  // there is no map yet: calls wait
        lost,       // there is no map, and no node sent one: calls end at once
        known,
    };

    // RedisNode::Owner
    void node_unavailable(RedisNode &node) override;
    void node_available(RedisNode &node) override;
    void read_only(RedisNode &node) override;
    void redirected(RedisNode &node, Call &call, Millis deadline,
                    const RedisRedirect &redirect) override;
    void cluster_down(RedisNode &node) override;

    // RedisQuery::Owner
    const char *read(RedisQuery &query, const redisReply &reply) override;
    void ended(RedisQuery &query, const char *fault, ngx_err_t error) override;

    static void on_refresh(ngx_event_t *event);
    static void on_free_unused(ngx_event_t *event);

    RedisNode *redirect_target(RedisNode &from, const KeyId &id,
                               const RedisRedirect &redirect) noexcept;
    void start_waiting() noexcept;

    void refresh_soon() noexcept;
    void refresh() noexcept;
    bool query_next() noexcept;
    void apply_map(const RedisServer &source) noexcept;
    void report_failure(const char *why, ngx_err_t error) noexcept;

    RedisOptions options_;
    RedisScripts scripts_;
    RedisKeySlots key_slots_;
    RedisClusterNodes nodes_;
    RedisWaitingCalls waiting_calls_;
    RedisKeyScan scan_;
    ngx_uint_t walk_changes_ = 0;  // RedisClusterNodes::changes() when the walk began

    State state_ = State::closed;
    StoreWatcher *watcher_ = nullptr;
    ngx_log_t *log_ = nullptr;

    RedisQuery query_;
    RedisSlotMap map_;              // the last that was sent
    ngx_uint_t round_ = 0;          // counts refreshes
    ngx_uint_t nodes_queried_ = 0;  // in this refresh
    ngx_uint_t seeds_queried_ = 0;
    ngx_uint_t first_seed_ = 0;
    bool refresh_again_ = false;  // there was a reason to refresh during this refresh
    bool failure_logged_ = false;
    RedisBackoff backoff_;

    ngx_event_t refresh_timer_{};
    ngx_event_t free_timer_{};
};

}  // namespace idempotency
