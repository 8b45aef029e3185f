// One connection of a worker to Redis, on nginx's event loop.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"
#include "redis/client/probe.h"
#include "redis/client/socket.h"
#include "redis/protocol/pipeline.h"
#include "redis/protocol/script.h"
#include "core/store.h"

namespace idempotency {

// It reconnects by itself.  While Redis is known to be down, calls end at once;
// while that is not known yet (the worker has just started, or Redis has closed a
// connection that worked) calls wait.
class RedisConnection final : private RedisPipeline::Events,
                              private RedisSocket::Events,
                              private RedisProbe::Owner {
public:
    // The node that the connection belongs to.
    class Owner {
    public:
        // This connection has found Redis down; or up again.  True where it is the
        // first connection of the node to find it down, or the last to find it up:
        // then the connection writes a line to the log.
        virtual bool connection_down(RedisConnection &connection) = 0;
        virtual bool connection_up(RedisConnection &connection) = 0;

        // A reply is late: calls end at once until it has come.
        virtual void stalled(RedisConnection &connection) = 0;

        // Redis replies again after it was down or stalled, or after the connection
        // was lost.  Calls must not be started from within.
        virtual void available_again(RedisConnection &connection) = 0;

        // Redis takes no writes: it is not the master any more.  `retarget` may be
        // called from within; else the connection reconnects after a delay.
        virtual void read_only(RedisConnection &connection) = 0;

        // See RedisPipelineEvents.  No connection may be closed from within.
        virtual void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) = 0;
        virtual void rerouted(Call &call, Millis deadline) = 0;

        // The cluster does not serve a key at the moment (CLUSTERDOWN).  No connection
        // may be closed from within.
        virtual void cluster_down() = 0;

    protected:
        ~Owner() = default;
    };

    // `inline_limit`: see RedisPipelineOptions.  The others outlive this object.  No
    // connection is opened yet.
    RedisConnection(const RedisOptions &options, RedisServer &server, const RedisScripts &scripts,
                    Owner &owner, std::size_t inline_limit) noexcept;

    RedisConnection(const RedisConnection &) = delete;
    RedisConnection &operator=(const RedisConnection &) = delete;

    // `log` outlives the connection.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.  The commands of calls that were started
    // before are written first, as far as that is possible without waiting: a worker
    // that ends at once releases its claims so.
    void close() noexcept;

    // Connects to another server, which outlives this object.  Calls in flight end as
    // `unavailable`; calls that wait go to the new server.
    void retarget(RedisServer &server) noexcept;

    // The deadline of a call that is started now.
    Millis deadline() const noexcept;

    // See Store::start; `asking`: see RedisPipeline::start.
    bool start(Call &call, Millis deadline, bool asking = false) noexcept;

    // Another connection to this server works: if this one waits to reconnect, it does so at once, and
    // calls wait for it from now on.
    void server_replies() noexcept;

    bool is_open() const { return state_ != State::closed; }
    bool is_down() const { return down_; }
    bool is_stalled() const { return pipeline_.stalled(); }

    // No call waits, and no reply is outstanding.
    bool idle() const { return pipeline_.idle(); }

    // Adds to the metrics of the server.
    void add_to(NodeState &state) const noexcept;

private:
    enum class State { closed, connecting, connected, waiting_to_reconnect };

    // RedisPipeline::Events
    void greeted() override;
    void error_reply(const char *what, const char *code, const KeyId *id,
                     const char *advice) override;
    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override;
    void rerouted(Call &call, Millis deadline) override;

    // RedisSocket::Events
    void established() override;
    void received(std::string_view bytes) override;
    void received_all() override;
    std::size_t output(iovec *out, std::size_t max) override;
    void wrote(std::size_t size) override;
    void failed(const char *why, ngx_err_t error) override;
    void address_removed() override;

    // RedisProbe::Owner
    void probe_replied() override;

    static void on_deadline(ngx_event_t *event);
    static void on_idle(ngx_event_t *event);
    static void on_reconnect(ngx_event_t *event);

    const RedisServer &server() const { return socket_.server(); }

    void connect() noexcept;
    void end_outage() noexcept;
    void drop(const char *why, ngx_err_t error, bool was_closed = false) noexcept;
    void connect_to_next_address(const char *why, ngx_err_t error) noexcept;
    void reconnect_later(const char *why, ngx_err_t error) noexcept;
    void check_pipeline() noexcept;
    void check_fault_soon() noexcept;

    void set_deadline_timer(Millis deadline) noexcept;
    void report_stall() noexcept;
    void note_written_progress() noexcept;
    void start_idle_timer() noexcept;
    bool is_unused() noexcept;

    const RedisOptions &options_;
    Owner &owner_;
    RedisPipeline pipeline_;
    RedisSocket socket_;
    RedisProbe probe_;

    State state_ = State::closed;
    bool down_ = false;  // known, and reported to the owner
    Cause down_cause_ = Cause::connection;
    std::uint64_t lost_ = 0;  // connections, since the worker has started
    bool stall_reported_ = false;
    bool draining_ = false;         // reconnects to another address when nothing is in flight
    bool read_only_ = false;        // a reply was READONLY: this is not the master any more
    bool was_used_ = false;         // since the last check of an idle connection
    unsigned unused_checks_ = 0;    // how many there were since it was used
    ngx_uint_t failed_rounds_ = 0;  // since the connection last was stable
    ngx_msec_t greeted_at_ = 0;
    std::uint64_t acknowledged_ = 0;  // bytes that the host of Redis had at the last deadline
    ngx_msec_t error_logged_at_ = 0;
    bool error_logged_ = false;
    char refusal_[320] = "";       // why Redis refuses the connection: TLS or greeting
    bool refusal_logged_ = false;  // since the greeting last succeeded

    ngx_log_t *log_ = nullptr;
    ngx_event_t deadline_timer_{};
    ngx_event_t reconnect_timer_{};
    ngx_event_t idle_timer_{};
};

}  // namespace idempotency
