// One connection of a worker to Redis, on nginx's event loop.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "redis/client/socket.h"
#include "redis/protocol/pipeline.h"
#include "redis/protocol/script.h"
#include "core/store.h"

namespace idempotency {

// It connects again by itself.  While Redis is known to be down, calls end at
// once; while that is not known yet (the worker has just started, or Redis has
// closed a connection that was in order) they wait.
class RedisConnection final : private RedisPipeline::Events, private RedisSocket::Events {
public:
    // Whose connection this is.
    class Owner {
    public:
        // Redis is down, or back, as this connection sees it.  True where no
        // other connection to it has told that yet: then the log is told.
        virtual bool down(RedisConnection &connection) = 0;
        virtual bool up(RedisConnection &connection) = 0;

        // Redis stands still: answers are late, and calls end at once.
        virtual void stands_still(RedisConnection &connection) = 0;

        // Redis answers again: it was down, the connection was lost, or it stood
        // still.  What was meant for it may be started, but not from within.
        virtual void answers_again(RedisConnection &connection) = 0;

        // Redis takes no writes: it is no master any more.  `retarget` may be
        // called from within; else it is tried again after a rest.
        virtual void read_only(RedisConnection &connection) = 0;

        // As RedisPipeline::Events has them; no connection is closed from within.
        virtual void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) = 0;
        virtual void lease_redirected(const Lease &lease, const RedisRedirect &redirect) = 0;
        virtual void rerouted(Call &call, Millis deadline) = 0;

        // The cluster does not serve a key at the moment; likewise.
        virtual void cluster_down() = 0;

    protected:
        ~Owner() = default;
    };

    // Above `inline_limit`, if not 0, a found value is not fetched: see
    // Owner::rerouted.  All others outlive this object.  Nothing is opened yet.
    RedisConnection(const RedisOptions &options, RedisServer &server, const RedisScripts &scripts,
                    Owner &owner, std::size_t inline_limit) noexcept;

    RedisConnection(const RedisConnection &) = delete;
    RedisConnection &operator=(const RedisConnection &) = delete;

    // `log` outlives the connection.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // To another server from now on, which outlives this object.  What is in
    // flight ends as `unavailable`, what waits goes to that server.
    void retarget(RedisServer &server) noexcept;

    // When a call that starts now ends at the latest, unless it is to wait for
    // more than Redis' answer.
    Millis deadline() const noexcept;

    // As Store::start, until `deadline`; `asking` as RedisPipeline::start has it.
    bool start(Call &call, Millis deadline, bool asking = false) noexcept;

    // False where the connection cannot do it at the moment.
    bool renew(const Lease *leases, std::size_t count) noexcept;

    bool is_down() const { return down_; }
    bool is_stalled() const { return pipeline_.stalled(); }

    // Nothing is waited for, not even an answer that comes late.
    bool idle() const { return pipeline_.idle(); }

private:
    enum class State { closed, connecting, connected, resting };

    // RedisPipeline::Events
    void greeted() override;
    void error_reply(const char *what, const char *code, const KeyId *id) override;
    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override;
    void lease_redirected(const Lease &lease, const RedisRedirect &redirect) override;
    void rerouted(Call &call, Millis deadline) override;

    // RedisSocket::Events
    void established() override;
    void received(std::string_view bytes) override;
    void received_all() override;
    std::size_t output(iovec *out, std::size_t most) override;
    void wrote(std::size_t size) override;
    void broken(const char *why, ngx_err_t error) override;
    void moved() override;

    static void on_deadline(ngx_event_t *event);
    static void on_rested(ngx_event_t *event);

    const RedisServer &server() const { return socket_.server(); }

    void connect() noexcept;
    void drop(const char *why, ngx_err_t error) noexcept;
    void next(const char *why, ngx_err_t error) noexcept;
    void rest(const char *why, ngx_err_t error) noexcept;
    void check() noexcept;
    void check_soon() noexcept;

    void arm(Millis deadline) noexcept;
    void note_stall() noexcept;

    const RedisOptions &options_;
    Owner &owner_;
    RedisPipeline pipeline_;
    RedisSocket socket_;

    State state_ = State::closed;
    bool down_ = false;  // known, and told
    bool stall_logged_ = false;
    bool draining_ = false;   // to go to another address of the server
    bool read_only_ = false;  // an answer said so: this is no master any more
    ngx_uint_t rests_ = 0;    // rounds that failed since it last was in order
    ngx_msec_t greeted_at_ = 0;
    ngx_msec_t error_logged_at_ = 0;
    bool error_logged_ = false;
    char refusal_[200] = "";       // why it did not let us in
    bool refusal_logged_ = false;  // since it last let us in

    ngx_log_t *log_ = nullptr;
    ngx_event_t deadline_timer_{};
    ngx_event_t rest_timer_{};
};

}  // namespace idempotency
