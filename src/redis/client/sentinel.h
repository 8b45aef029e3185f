// The store that is the master of a Redis which sentinels watch, as a worker
// sees it.

#pragma once

#include "nginx/nginx.h"

#include <string_view>

#include "redis/client/inquiry.h"
#include "redis/client/node.h"
#include "redis/client/options.h"
#include "redis/client/peer.h"
#include "redis/client/waiting_room.h"
#include "redis/protocol/pace.h"
#include "redis/protocol/script.h"
#include "redis/protocol/slots.h"
#include "core/store.h"

namespace idempotency {

// Whom sentinels name is asked for its role before anything goes to it.  They are
// asked when the master is lost or has become a replica, and now and then; one of
// them tells by itself of a new master.  One sentinel may be behind the others:
// it takes more than half of them to replace a master that answers, and any of
// them where there is none and the others are silent or disagree.
class RedisSentinel final : public Store, private RedisNode::Owner, private RedisInquiry::Owner {
public:
    // `options` is copied; what it points to outlives this object.
    explicit RedisSentinel(const RedisOptions &options) noexcept;

    // Why it cannot be used, or null.
    const char *fault() const;

    bool open() override;
    void close() override;
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override { node_.renew(leases, count); }
    void watch(StoreWatcher *watcher) override { watcher_ = watcher; }
    StoreFigures figures() override;

private:
    enum class State {
        closed,
        searching,  // no master is known yet: calls wait
        lost,       // and no sentinel named one: calls end at once
        known,
    };

    // RedisNode::Owner
    void node_lost(RedisNode &node) override;
    void node_answers_again(RedisNode &node) override;
    void read_only(RedisNode &node) override;

    // RedisInquiry::Owner
    const char *read(RedisInquiry &inquiry, const redisReply &reply) override;
    void ended(RedisInquiry &inquiry, const char *fault, ngx_err_t error) override;

    // Who has been named by how many sentinels, this time.
    struct Named {
        RedisEndpoint endpoint;
        ngx_uint_t votes = 0;
        bool refuted = false;  // it is no master, or not there
    };

    static constexpr std::size_t kMostNamed = 8;

    static void on_look(ngx_event_t *event);
    static void on_listen(ngx_event_t *event);

    const char *read_message(const redisReply &reply) noexcept;

    void look_soon() noexcept;
    void look() noexcept;
    bool ask_next() noexcept;
    void weigh_named(const RedisServer &teller) noexcept;
    Named *count_vote() noexcept;
    void decide(const char *fault, ngx_err_t error) noexcept;
    void refute(const char *why) noexcept;
    void probe(const RedisEndpoint &endpoint, const RedisServer &teller) noexcept;
    void adopt() noexcept;
    void end_look(const char *fault, ngx_err_t error) noexcept;
    void go_on(const char *fault, ngx_err_t error) noexcept;
    void listen() noexcept;
    void end_waiting() noexcept;

    RedisPeer &current() { return peers_[current_]; }
    RedisPeer &candidate() { return peers_[1 - current_]; }
    std::string_view master() const;

    RedisOptions options_;
    RedisScripts scripts_;
    RedisPeer peers_[2];  // the master, and whom a sentinel names in its place
    unsigned current_ = 0;
    RedisNode node_;
    RedisWaitingRoom waiting_;

    State state_ = State::closed;
    StoreWatcher *watcher_ = nullptr;
    ngx_log_t *log_ = nullptr;

    RedisInquiry inquiry_;   // to sentinels: who is the master?
    RedisInquiry probe_;     // to the candidate: is it one?
    RedisInquiry listener_;  // to a sentinel: tell when it changes
    std::string_view question_[3];
    Named votes_[kMostNamed];
    char refusal_[256] = "";   // why one that was named is none
    RedisEndpoint named_;      // by the sentinel that was asked
    RedisEndpoint heard_;      // by the one that tells by itself
    bool heard_some_ = false;  // and it is still to be looked at
    ngx_uint_t asked_ = 0;     // sentinels, this time
    ngx_uint_t first_ = 0;     // the sentinel to begin with
    ngx_uint_t listened_ = 0;  // the one to listen to
    bool again_ = false;       // something came up while it looked
    bool failure_logged_ = false;
    RedisPace pace_;
    RedisPace listener_pace_;

    ngx_event_t look_timer_{};
    ngx_event_t listen_timer_{};
};

}  // namespace idempotency
