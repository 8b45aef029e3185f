// One connection of a worker to Redis, on nginx's event loop.

#pragma once

#include "store/nginx.h"

#include "store/ngx_redis_options.h"
#include "store/redis_pipeline.h"
#include "store/redis_script.h"
#include "store/store.h"

namespace idempotency {

// It connects again by itself.  While Redis is known to be down, calls end at
// once; while that is not known yet (the worker has just started, or Redis has
// closed a connection that was in order) they wait.
class RedisConnection final : private RedisPipeline::Events {
public:
    // All three outlive this object.  `down` counts the connections to this
    // Redis that are down: the log is told of the first and the last of them.
    // Nothing is opened yet.
    RedisConnection(const RedisOptions &options, const RedisScripts &scripts,
                    ngx_uint_t &down) noexcept;

    RedisConnection(const RedisConnection &) = delete;
    RedisConnection &operator=(const RedisConnection &) = delete;

    // `log` outlives the connection.
    void open(ngx_log_t *log) noexcept;

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // As Store::start.
    bool start(Call &call) noexcept;

    // False where the connection cannot do it at the moment.
    bool renew(const Lease *leases, std::size_t count) noexcept;

private:
    enum class State { closed, connecting, connected, resting };

    // RedisPipeline::Events
    void greeted() override;
    void error_answer(const char *what, const char *code, const KeyId *id) override;

    static void on_read(ngx_event_t *event);
    static void on_write(ngx_event_t *event);
    static void on_deadline(ngx_event_t *event);
    static void on_retry(ngx_event_t *event);

    void connect() noexcept;
    bool connect_to(const ngx_addr_t &address) noexcept;
    bool finish_connect() noexcept;
    void established() noexcept;
    void read() noexcept;
    void write() noexcept;
    bool write_some() noexcept;
    void write_soon() noexcept;
    void check() noexcept;

    void drop(const char *why, ngx_err_t error) noexcept;
    void try_next(const char *why, ngx_err_t error) noexcept;
    void rest(const char *why, ngx_err_t error) noexcept;
    void close_socket() noexcept;

    void arm(Millis deadline) noexcept;
    void note_stall() noexcept;

    const RedisServer &server() const { return options_.servers[0]; }

    const RedisOptions &options_;
    ngx_uint_t &all_down_;
    RedisPipeline pipeline_;

    State state_ = State::closed;
    bool down_ = false;             // known, and counted
    bool stall_logged_ = false;
    bool read_only_ = false;        // an answer said so: this is no master any more
    ngx_uint_t address_ = 0;        // the one in use
    ngx_uint_t tried_ = 0;          // how many addresses have failed in this round
    ngx_uint_t rests_ = 0;          // rounds that failed since it last was in order
    ngx_msec_t greeted_at_ = 0;
    ngx_msec_t error_logged_at_ = 0;
    bool error_logged_ = false;
    char refusal_[64] = "";         // why it did not let us in
    bool refusal_logged_ = false;   // since it last let us in

    ngx_log_t *log_ = nullptr;
    ngx_log_t quiet_log_{};         // for nginx's own messages about the socket
    ngx_connection_t *connection_ = nullptr;
    ngx_event_t deadline_timer_{};
    ngx_event_t retry_timer_{};     // while connecting or resting
};

}  // namespace idempotency
