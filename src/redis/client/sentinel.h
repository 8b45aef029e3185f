// The store whose Redis master is watched by sentinels, as one worker sees it.

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "redis/client/key_scan.h"
#include "redis/client/query.h"
#include "redis/client/node.h"
#include "redis/client/options.h"
#include "redis/client/discovered_server.h"
#include "redis/client/sentinel_list.h"
#include "redis/client/sentinel_watch.h"
#include "redis/client/waiting_calls.h"
#include "redis/protocol/backoff.h"
#include "redis/protocol/script.h"
#include "redis/protocol/sentinel_votes.h"
#include "redis/protocol/slots.h"
#include "core/store.h"

namespace idempotency {

// All calls go to the master.  Sentinels are queried for its address when the
// master is lost or has become a replica, when one of them publishes that the master
// has changed, and from time to time.  RedisSentinelVotes decides which of the named
// servers becomes the master.  Such a server is asked for its role before any call goes
// to it; no other server ever gets the password.
class RedisSentinel final : public Store,
                            private RedisNode::Owner,
                            private RedisQuery::Owner,
                            private RedisSentinelWatch::Owner {
public:
    // `options` is copied; what it points to outlives this object.
    explicit RedisSentinel(const RedisOptions &options) noexcept;

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
        searching,  // no master is known yet: calls wait
        lost,       // no master is known, and no sentinel named one: calls end at once
        known,
    };

    // RedisNode::Owner
    void node_unavailable(RedisNode &node) override;
    void node_available(RedisNode &node) override;
    void read_only(RedisNode &node) override;

    // RedisQuery::Owner
    const char *read(RedisQuery &query, const redisReply &reply) override;
    void ended(RedisQuery &query, const char *fault, ngx_err_t error) override;

    // RedisSentinelWatch::Owner
    void master_may_have_changed() override;

    static void on_search(ngx_event_t *event);

    const char *read_role(const redisReply &reply) noexcept;
    const char *read_master(const redisReply &reply) noexcept;

    void search_soon() noexcept;
    void search() noexcept;
    bool query_next() noexcept;
    void query_next_or_decide(const char *fault, ngx_err_t error) noexcept;
    void act_on(const RedisSentinelVotes::Decision &decision, const char *fault,
                ngx_err_t error) noexcept;
    void check_role(const RedisEndpoint &endpoint, const RedisServer &source) noexcept;
    void reject_candidate(const char *why) noexcept;
    void switch_to_candidate() noexcept;
    void end_search(const char *fault, ngx_err_t error) noexcept;
    void report_failure(const char *fault, ngx_err_t error) noexcept;
    void start_waiting() noexcept;

    bool has_available_master() const { return state_ == State::known && node_.is_available(); }
    RedisDiscoveredServer &current() { return servers_[current_]; }
    RedisDiscoveredServer &candidate() { return servers_[1 - current_]; }
    std::string_view master_name() const;

    RedisOptions options_;
    RedisOptions sentinel_options_;  // for connections to sentinels
    RedisSentinelList sentinels_;
    RedisScripts scripts_;
    RedisDiscoveredServer servers_[2];  // the master, and the candidate to replace it
    unsigned current_ = 0;
    std::size_t master_changes_ = 0;
    RedisNode node_;
    RedisWaitingCalls waiting_calls_;
    RedisKeyScan scan_;

    State state_ = State::closed;
    StoreWatcher *watcher_ = nullptr;
    ngx_log_t *log_ = nullptr;

    RedisQuery master_query_;  // to sentinels: the master's address
    RedisQuery role_query_;    // to the candidate: its role
    RedisSentinelWatch watch_;
    std::string_view master_command_[3];
    RedisSentinelVotes votes_;
    RedisEndpoint named_;        // by the sentinel that was queried
    char rejection_[256] = "";   // why the last candidate was rejected in this search
    ngx_uint_t queried_ = 0;     // how many sentinels in this search
    ngx_uint_t first_ = 0;       // index of the sentinel that a search begins with
    bool search_again_ = false;  // there was a reason to search during this search
    bool failure_logged_ = false;
    RedisBackoff search_backoff_;

    ngx_event_t search_timer_{};
};

}  // namespace idempotency
