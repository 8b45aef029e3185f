#include "redis/client/connection.h"

#include <algorithm>

#include "nginx/timer.h"

namespace idempotency {

namespace {

constexpr ngx_msec_t kMinReconnectDelay = 50;
constexpr ngx_msec_t kMaxReconnectDelay = 1000;

// A connection that has worked for so long is stable: Redis has not refused it.
constexpr ngx_msec_t kStable = 1000;

// How often a connection logs an error reply at the level `error`.
constexpr ngx_msec_t kErrorInterval = 1000;

// How many large values are in flight at a time: as many may be in the output
// buffer of Redis.
constexpr std::size_t kMaxLarge = 4;

RedisPipelineOptions pipeline_options(const RedisOptions &from, std::size_t inline_limit)
{
    RedisPipelineOptions options;

    options.prefix = view(from.prefix);
    options.timeout = from.timeout;
    options.inline_limit = inline_limit;
    options.max_in_flight = inline_limit == 0 ? kMaxLarge : 0;
    options.is_bulk = inline_limit == 0;
    options.replicas = static_cast<unsigned>(from.replicas);
    options.replica_wait = from.replica_wait;
    return options;
}

// Half of the delay is random, so that workers do not reconnect at the same time.
ngx_msec_t reconnect_delay(ngx_uint_t failed_rounds)
{
    ngx_msec_t max =
        std::min(kMinReconnectDelay << std::min<ngx_uint_t>(failed_rounds, 8), kMaxReconnectDelay);

    return max / 2 + static_cast<ngx_msec_t>(ngx_random()) % (max / 2 + 1);
}

}  // namespace

RedisConnection::RedisConnection(const RedisOptions &options, RedisServer &server,
                                 const RedisScripts &scripts, Owner &owner,
                                 std::size_t inline_limit) noexcept
    : options_(options), owner_(owner),
      pipeline_(scripts, pipeline_options(options, inline_limit), *this),
      socket_(options, server, RedisConnectionShare::Use::calls, *this),
      probe_(options, server, *this)
{}

void RedisConnection::open(ngx_log_t *log) noexcept
{
    log_ = log;
    was_used_ = true;

    prepare_timer(deadline_timer_, on_deadline, this, log);

    // a worker that quits waits for calls, not for a connection
    prepare_timer(reconnect_timer_, on_reconnect, this, log);

    start_idle_timer();
    socket_.open(log);
    probe_.open(log);
    connect();
}

void RedisConnection::close() noexcept
{
    if (state_ == State::connected) {
        socket_.flush();
    }

    state_ = State::closed;
    socket_.close();
    probe_.close();

    for (ngx_event_t *timer : {&deadline_timer_, &reconnect_timer_, &idle_timer_}) {
        cancel_timer(*timer);
    }

    pipeline_.close();
    pipeline_.end_waiting(Cause::connection);
}

void RedisConnection::add_to(NodeState &state) const noexcept
{
    state.connections += pipeline_.ready();
    state.in_flight += pipeline_.in_flight();
    state.commands += pipeline_.sent();
    state.reconnects += lost_;
}

void RedisConnection::retarget(RedisServer &server) noexcept
{
    socket_.close();
    socket_.retarget(server);

    if (state_ == State::closed) {
        return;
    }

    // nothing is known about the new server yet
    failed_rounds_ = 0;
    refusal_logged_ = false;
    connect();
}

// Calls

Millis RedisConnection::deadline() const noexcept
{
    return ngx_current_msec + options_.timeout + options_.replica_wait
           + (pipeline_.ready() && !draining_ ? 0 : options_.connect_timeout);
}

bool RedisConnection::start(Call &call, Millis deadline, bool asking) noexcept
{
    if (down_ || state_ == State::closed) {
        call.reply = failed_reply(down_cause_);
        return true;
    }

    was_used_ = true;

    bool ended = pipeline_.start(call, deadline, asking);

    check_fault_soon();

    if (ended) {
        return true;
    }

    set_deadline_timer(deadline);
    socket_.write_soon();
    return false;
}

// Connecting

void RedisConnection::connect() noexcept
{
    cancel_timer(reconnect_timer_);

    state_ = State::connecting;
    greeted_at_ = 0;
    acknowledged_ = 0;
    refusal_[0] = '\0';
    draining_ = false;
    read_only_ = false;
    stall_reported_ = false;
    probe_.close();

    // ends the calls in flight, which may start other calls: these wait
    pipeline_.close();
    socket_.connect();
}

void RedisConnection::established()
{
    state_ = State::connected;
    refusal_[0] = '\0';
    pipeline_.open({view(options_.user), view(options_.password),
                    static_cast<std::uint32_t>(options_.database),
                    options_.topology == RedisTopology::sentinel},
                   ngx_current_msec);
    check_fault_soon();
    set_deadline_timer(ngx_current_msec + options_.timeout);
    socket_.write_soon();
}

void RedisConnection::greeted()
{
    greeted_at_ = ngx_current_msec;
    down_cause_ = Cause::connection;
    refusal_logged_ = false;
    socket_.keep_address();
    owner_.available_again(*this);

    if (down_) {
        end_outage();
    }
}

void RedisConnection::end_outage() noexcept
{
    down_ = false;

    if (owner_.connection_up(*this)) {
        ngx_log_error(NGX_LOG_WARN, log_, 0,
                      "idempotency: redis \"%V\" of store \"%V\" is available again",
                      &server().name, &options_.store);
    }
}

// Before the greeting has succeeded the error is the reason why the connection
// fails.  Afterwards it is logged at the level `error` once per kErrorInterval, as
// every call may get an error.
void RedisConnection::error_reply(const char *what, const char *code, const KeyId *id,
                                  const char *advice)
{
    if (!pipeline_.ready()) {
        down_cause_ = cause_of_code(code);
        *ngx_snprintf(reinterpret_cast<u_char *>(refusal_), sizeof(refusal_) - 1,
                      "it replied to %s with %s%s%s", what, code, advice != nullptr ? ": " : "",
                      advice != nullptr ? advice : "") = '\0';
        return;
    }

    ngx_uint_t level = NGX_LOG_INFO;

    if (!error_logged_ || ngx_current_msec - error_logged_at_ >= kErrorInterval) {
        error_logged_ = true;
        error_logged_at_ = ngx_current_msec;
        level = NGX_LOG_ERR;
    }

    char hex[kHexLength];
    std::size_t length = 0;

    if (id != nullptr) {
        write_hex(*id, hex);
        length = sizeof(hex);
    }

    ngx_log_error(level, log_, 0,
                  "idempotency: redis \"%V\" of store \"%V\" replied to %s with %s%s%*s%s%s",
                  &server().name, &options_.store, what, code, id != nullptr ? ", key " : "",
                  length, hex, advice != nullptr ? ": " : "", advice != nullptr ? advice : "");

    if (ngx_strcmp(code, "READONLY") == 0) {
        read_only_ = true;
        down_cause_ = Cause::readonly;
    }

    if (ngx_strcmp(code, "CLUSTERDOWN") == 0) {
        owner_.cluster_down();
    }
}

void RedisConnection::redirected(Call &call, Millis deadline, const RedisRedirect &redirect)
{
    owner_.redirected(call, deadline, redirect);
}

void RedisConnection::rerouted(Call &call, Millis deadline) { owner_.rerouted(call, deadline); }

// Reading and writing

void RedisConnection::received(std::string_view bytes)
{
    pipeline_.input(bytes, ngx_current_msec);

    if (pipeline_.fault() != nullptr) {
        check_pipeline();
    }
}

void RedisConnection::received_all() { check_pipeline(); }

std::size_t RedisConnection::output(iovec *out, std::size_t max)
{
    std::size_t n = pipeline_.output(out, max);

    check_fault_soon();
    return n;
}

void RedisConnection::wrote(std::size_t size) { pipeline_.wrote(size); }

// Ends of a connection

// To be called after anything that may have changed the state of the pipeline.
void RedisConnection::check_pipeline() noexcept
{
    if (state_ != State::connected) {
        return;
    }

    if (pipeline_.fault() != nullptr) {
        drop(refusal_[0] != '\0' ? refusal_ : pipeline_.fault(), 0);
        return;
    }

    if (read_only_) {
        drop("it has become read-only: it is not the master any more", 0);
        return;
    }

    if (draining_ && pipeline_.drained()) {
        connect();
        return;
    }

    report_stall();

    // a worker that quits waits for commands in flight, not for the timer alone
    if (pipeline_.idle()) {
        deadline_timer_.cancelable = 1;
    }
}

// Where a call has just been started the connection must not be closed: that would
// end the call before `start` has returned.  The timer closes the connection.
void RedisConnection::check_fault_soon() noexcept
{
    if (pipeline_.fault() != nullptr) {
        set_deadline_timer(ngx_current_msec);
    }
}

void RedisConnection::failed(const char *why, ngx_err_t error)
{
    down_cause_ = Cause::connection;

    // the server is up, and someone has to correct what the log says
    if (socket_.tls_failed()) {
        *ngx_snprintf(reinterpret_cast<u_char *>(refusal_), sizeof(refusal_) - 1, "%s", why) = '\0';
        why = refusal_;
    }

    if (state_ == State::connected) {
        drop(why, error, true);
    } else {
        reconnect_later(why, error);
    }
}

// Commands in flight may still get their replies; new calls wait for the connection
// to the new address.
void RedisConnection::address_removed()
{
    if (state_ != State::connected || draining_) {
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, log_, 0,
                  "idempotency: redis \"%V\" of store \"%V\" has another address now: reconnecting",
                  &server().name, &options_.store);
    draining_ = true;
    pipeline_.pause();
    check_pipeline();
}

// Closes a connection that cannot be used any more.  `was_closed`: by the other end.
void RedisConnection::drop(const char *why, ngx_err_t error, bool was_closed) noexcept
{
    lost_++;

    bool was_greeted = pipeline_.ready();
    bool was_stable = greeted_at_ != 0 && ngx_current_msec - greeted_at_ >= kStable;
    bool is_read_only = read_only_;
    // Redis, or a proxy, may just have closed an idle connection: whether Redis is
    // down shows when the worker reconnects
    bool reconnect_now = (was_stable && was_greeted && !pipeline_.stalled() && !is_read_only)
                         || pipeline_.value_refused();

    // a single command may be the reason, and the server works
    if ((was_closed && !pipeline_.stalled() && pipeline_.take_back(ngx_current_msec))
        || (pipeline_.value_refused() && pipeline_.take_back(ngx_current_msec)))
    {
        reconnect_now = true;
    }

    socket_.close();
    probe_.close();
    stall_reported_ = false;
    draining_ = false;
    greeted_at_ = 0;

    if (was_stable) {
        failed_rounds_ = 0;
    }

    // another address of the name may be the one of the new master
    if (is_read_only) {
        socket_.skip_address();
    }

    if (reconnect_now) {
        ngx_log_error(
            NGX_LOG_INFO, log_, error,
            "idempotency: redis \"%V\" of store \"%V\": connection lost, reconnecting: %s",
            &server().name, &options_.store, why);
        connect();
    } else if (was_greeted || was_stable) {
        reconnect_later(why, error);
    } else {
        connect_to_next_address(why, error);
    }

    if (is_read_only) {
        owner_.read_only(*this);
    }
}

// The server at this address has refused the connection.
void RedisConnection::connect_to_next_address(const char *why, ngx_err_t error) noexcept
{
    state_ = State::connecting;
    read_only_ = false;
    pipeline_.close();

    if (!socket_.connect_next()) {
        reconnect_later(why, error);
    }
}

void RedisConnection::reconnect_later(const char *why, ngx_err_t error) noexcept
{
    // logged as an error once for each time that Redis is down, and once more where
    // it is up and refuses the connection: that reason has to be corrected
    bool refuses = refusal_[0] != '\0' && !refusal_logged_;
    bool is_first = !down_ && owner_.connection_down(*this);
    ngx_uint_t level = is_first || refuses ? NGX_LOG_ERR : NGX_LOG_INFO;

    refusal_logged_ = refusal_logged_ || refuses;

    ngx_log_error(level, log_, error,
                  "idempotency: redis \"%V\" of store \"%V\" is unavailable: %s", &server().name,
                  &options_.store, why);

    // before the calls end, as these may start other calls
    state_ = State::waiting_to_reconnect;
    down_ = true;
    ngx_add_timer(&reconnect_timer_, reconnect_delay(failed_rounds_++));

    pipeline_.close();
    pipeline_.end_waiting(down_cause_);
    deadline_timer_.cancelable = 1;
}

}  // namespace idempotency
