#include "redis/client/connection.h"

#include <algorithm>

#include "nginx/timer.h"

namespace idempotency {

namespace {

constexpr ngx_msec_t kShortestRest = 50;
constexpr ngx_msec_t kLongestRest = 1000;

// A connection that was in order for so long was not refused by its Redis.
constexpr ngx_msec_t kInOrder = 1000;

// How often a connection complains about answers at the level `error`.
constexpr ngx_msec_t kErrorInterval = 1000;

// How many large values are on their way at a time: so many may lie in Redis'
// output buffer.
constexpr std::size_t kMaxLarge = 4;

RedisPipelineOptions pipeline_options(const RedisOptions &from, std::size_t inline_limit)
{
    RedisPipelineOptions options;

    options.prefix = view(from.prefix);
    options.timeout = from.timeout;
    options.single_renewals = from.topology == RedisTopology::cluster;
    options.inline_limit = inline_limit;
    options.max_in_flight = inline_limit == 0 ? kMaxLarge : 0;
    options.replicas = static_cast<unsigned>(from.replicas);
    options.replica_wait = from.replica_wait;
    return options;
}

// Half of it fixed, half random: workers do not come back in step.
ngx_msec_t rest_length(ngx_uint_t rests)
{
    ngx_msec_t most = std::min(kShortestRest << std::min<ngx_uint_t>(rests, 8), kLongestRest);

    return most / 2 + static_cast<ngx_msec_t>(ngx_random()) % (most / 2 + 1);
}

}  // namespace

RedisConnection::RedisConnection(const RedisOptions &options, RedisServer &server,
                                 const RedisScripts &scripts, Owner &owner,
                                 std::size_t inline_limit) noexcept
    : options_(options), owner_(owner),
      pipeline_(scripts, pipeline_options(options, inline_limit), *this),
      socket_(options, server, *this)
{}

void RedisConnection::open(ngx_log_t *log) noexcept
{
    log_ = log;

    deadline_timer_.handler = on_deadline;
    deadline_timer_.data = this;
    deadline_timer_.log = log;
    deadline_timer_.cancelable = 1;

    // a worker that quits does not wait for a connection that nobody waits for
    rest_timer_.handler = on_rested;
    rest_timer_.data = this;
    rest_timer_.log = log;
    rest_timer_.cancelable = 1;

    socket_.open(log);
    connect();
}

void RedisConnection::close() noexcept
{
    state_ = State::closed;
    socket_.close();

    for (ngx_event_t *timer : {&deadline_timer_, &rest_timer_}) {
        if (timer->timer_set) {
            ngx_del_timer(timer);
        }
    }

    pipeline_.close();
    pipeline_.end_waiting();
}

void RedisConnection::retarget(RedisServer &server) noexcept
{
    socket_.close();
    socket_.retarget(server);

    if (state_ == State::closed) {
        return;
    }

    // nothing is known of that server yet
    rests_ = 0;
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
        call.reply = Reply();
        return true;
    }

    bool ended = pipeline_.start(call, deadline, asking);

    check_soon();

    if (ended) {
        return true;
    }

    arm(deadline);
    socket_.write_soon();
    return false;
}

bool RedisConnection::renew(const Lease *leases, std::size_t count) noexcept
{
    if (!pipeline_.ready() || pipeline_.stalled() || draining_) {
        return false;
    }

    pipeline_.renew(leases, count, ngx_current_msec);
    check_soon();
    arm(ngx_current_msec + options_.timeout);
    socket_.write_soon();
    return true;
}

// Connecting

void RedisConnection::connect() noexcept
{
    if (rest_timer_.timer_set) {
        ngx_del_timer(&rest_timer_);
    }

    state_ = State::connecting;
    greeted_at_ = 0;
    refusal_[0] = '\0';
    draining_ = false;
    read_only_ = false;
    stall_logged_ = false;

    // ends what was in flight; that may start other calls, which wait
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
    check_soon();
    arm(ngx_current_msec + options_.timeout);
    socket_.write_soon();
}

void RedisConnection::greeted()
{
    greeted_at_ = ngx_current_msec;
    refusal_logged_ = false;
    socket_.settle();
    owner_.answers_again(*this);

    if (!down_) {
        return;
    }

    down_ = false;

    if (owner_.up(*this)) {
        ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" is back", &server().name);
    }
}

// A down Redis is not complained about for each call, nor one that answers
// every call with an error.
void RedisConnection::error_reply(const char *what, const char *code, const KeyId *id)
{
    if (!pipeline_.ready()) {
        *ngx_snprintf(reinterpret_cast<u_char *>(refusal_), sizeof(refusal_) - 1,
                      "it answers %s with %s", what, code) = '\0';
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

    ngx_log_error(level, log_, 0, "idempotency: redis \"%V\" answers %s with %s%s%*s",
                  &server().name, what, code, id != nullptr ? ", key " : "", length, hex);

    read_only_ = read_only_ || ngx_strcmp(code, "READONLY") == 0;

    if (ngx_strcmp(code, "CLUSTERDOWN") == 0) {
        owner_.cluster_down();
    }
}

void RedisConnection::redirected(Call &call, Millis deadline, const RedisRedirect &redirect)
{
    owner_.redirected(call, deadline, redirect);
}

void RedisConnection::lease_redirected(const Lease &lease, const RedisRedirect &redirect)
{
    owner_.lease_redirected(lease, redirect);
}

void RedisConnection::rerouted(Call &call, Millis deadline) { owner_.rerouted(call, deadline); }

// Reading and writing

void RedisConnection::received(std::string_view bytes)
{
    pipeline_.input(bytes, ngx_current_msec);

    if (pipeline_.fault() != nullptr) {
        check();
    }
}

void RedisConnection::received_all() { check(); }

std::size_t RedisConnection::output(iovec *out, std::size_t most)
{
    std::size_t n = pipeline_.output(out, most);

    check_soon();
    return n;
}

void RedisConnection::wrote(std::size_t size) { pipeline_.wrote(size); }

// Ends

// After anything that may have changed how the pipeline stands.
void RedisConnection::check() noexcept
{
    if (state_ != State::connected) {
        return;
    }

    if (pipeline_.fault() != nullptr) {
        drop(refusal_[0] != '\0' ? refusal_ : pipeline_.fault(), 0);
        return;
    }

    if (read_only_) {
        drop("it has become read-only", 0);
        return;
    }

    if (draining_ && pipeline_.drained()) {
        connect();
        return;
    }

    note_stall();

    // a worker that quits waits for what is in flight, not for the timer
    if (pipeline_.idle()) {
        deadline_timer_.cancelable = 1;
    }
}

// Where a call has just been started the connection cannot end: that would end
// the call, which is told of only when `start` has returned.
void RedisConnection::check_soon() noexcept
{
    if (pipeline_.fault() != nullptr) {
        arm(ngx_current_msec);
    }
}

void RedisConnection::note_stall() noexcept
{
    if (pipeline_.stalled() == stall_logged_) {
        return;
    }

    stall_logged_ = pipeline_.stalled();

    if (stall_logged_) {
        ngx_log_error(NGX_LOG_ERR, log_, 0,
                      "idempotency: redis \"%V\" has not answered for %M ms: it gets no further "
                      "commands until it does",
                      &server().name, options_.timeout);
        owner_.stands_still(*this);
    } else {
        ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" answers again",
                      &server().name);
        owner_.answers_again(*this);
    }
}

void RedisConnection::broken(const char *why, ngx_err_t error)
{
    // it is there, and what is wrong has to be put right
    if (socket_.refused()) {
        *ngx_snprintf(reinterpret_cast<u_char *>(refusal_), sizeof(refusal_) - 1, "%s", why) = '\0';
        why = refusal_;
    }

    if (state_ == State::connected) {
        drop(why, error);
    } else {
        rest(why, error);
    }
}

// What is in flight may still end; what comes now waits for the new address.
void RedisConnection::moved()
{
    if (state_ != State::connected || draining_) {
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" has another address now",
                  &server().name);
    draining_ = true;
    pipeline_.pause();
    check();
}

// The connection is of no use any more.
void RedisConnection::drop(const char *why, ngx_err_t error) noexcept
{
    bool was_greeted = pipeline_.ready();
    bool in_order = greeted_at_ != 0 && ngx_current_msec - greeted_at_ >= kInOrder;
    bool is_read_only = read_only_;
    // Redis closes idle connections, and so does what stands in between: that
    // it is down is known when it cannot be connected to again
    bool again = in_order && was_greeted && !pipeline_.stalled() && !is_read_only;

    socket_.close();
    stall_logged_ = false;
    draining_ = false;
    greeted_at_ = 0;

    if (in_order) {
        rests_ = 0;
    }

    // another address of the name may be that of the new master
    if (is_read_only) {
        socket_.turn_away();
    }

    if (again) {
        ngx_log_error(NGX_LOG_INFO, log_, error, "idempotency: redis \"%V\": %s", &server().name,
                      why);
        connect();
    } else if (was_greeted || in_order) {
        rest(why, error);
    } else {
        next(why, error);
    }

    if (is_read_only) {
        owner_.read_only(*this);
    }
}

// It did not let us in: what about the next address?
void RedisConnection::next(const char *why, ngx_err_t error) noexcept
{
    state_ = State::connecting;
    read_only_ = false;
    pipeline_.close();

    if (!socket_.connect_next()) {
        rest(why, error);
    }
}

void RedisConnection::rest(const char *why, ngx_err_t error) noexcept
{
    // once for each time that it is down, and once more where it is up and
    // refuses: what it says is what has to be put right
    bool refuses = refusal_[0] != '\0' && !refusal_logged_;
    bool is_first = !down_ && owner_.down(*this);
    ngx_uint_t level = is_first || refuses ? NGX_LOG_ERR : NGX_LOG_INFO;

    refusal_logged_ = refusal_logged_ || refuses;

    ngx_log_error(level, log_, error, "idempotency: redis \"%V\" is unavailable: %s",
                  &server().name, why);

    // before the calls end, which may start others
    state_ = State::resting;
    down_ = true;
    ngx_add_timer(&rest_timer_, rest_length(rests_++));

    pipeline_.close();
    pipeline_.end_waiting();
    deadline_timer_.cancelable = 1;
}

// Timers

// The timer may be earlier than the next deadline: `on_deadline` sets it anew.
void RedisConnection::arm(Millis deadline) noexcept
{
    deadline_timer_.cancelable = 0;
    fire_within(deadline_timer_, deadline > ngx_current_msec ? deadline - ngx_current_msec : 0);
}

void RedisConnection::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisConnection *>(event->data);

    self->pipeline_.expire(ngx_current_msec);
    self->deadline_timer_.cancelable = 1;

    Millis next = self->pipeline_.next_deadline();

    if (next != kNever) {
        self->arm(next);
    }

    self->check();
    self->socket_.write_soon();
}

void RedisConnection::on_rested(ngx_event_t *event)
{
    static_cast<RedisConnection *>(event->data)->connect();
}

}  // namespace idempotency
