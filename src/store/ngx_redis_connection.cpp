#include "store/ngx_redis_connection.h"

#include <algorithm>

namespace idempotency {

namespace {

constexpr ngx_msec_t kShortestRest = 50;
constexpr ngx_msec_t kLongestRest = 1000;

// A connection that was in order for so long was not refused by its Redis.
constexpr ngx_msec_t kInOrder = 1000;

// How often a connection complains about answers at the level `error`.
constexpr ngx_msec_t kErrorInterval = 1000;

constexpr std::size_t kReadSize = 16 * 1024;
constexpr std::size_t kPieces = 64;             // as many as nginx gives to one writev()

std::string_view view(const ngx_str_t &text)
{
    return {reinterpret_cast<const char *>(text.data), text.len};
}

// Half of it fixed, half random: workers do not come back in step.
ngx_msec_t rest_length(ngx_uint_t rests)
{
    ngx_msec_t most = std::min(kShortestRest << std::min<ngx_uint_t>(rests, 8), kLongestRest);

    return most / 2 + static_cast<ngx_msec_t>(ngx_random()) % (most / 2 + 1);
}

ngx_err_t socket_error(const ngx_connection_t *c)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) == -1) {
        error = ngx_socket_errno;
    }

    return error;
}

}  // namespace

RedisConnection::RedisConnection(const RedisOptions &options, const RedisScripts &scripts,
                                 ngx_uint_t &down) noexcept
    : options_(options), all_down_(down),
      pipeline_(scripts, view(options.prefix), options.timeout, *this)
{
}

void RedisConnection::open(ngx_log_t *log) noexcept
{
    log_ = log;

    // Each failed attempt would be logged by nginx too; here a line is written
    // when Redis goes down and when it is back.
    quiet_log_ = *log;
    quiet_log_.handler = nullptr;

    if ((log->log_level & NGX_LOG_DEBUG_EVENT) == 0) {
        quiet_log_.log_level = std::min<ngx_uint_t>(log->log_level, NGX_LOG_ALERT);
    }

    deadline_timer_.handler = on_deadline;
    deadline_timer_.data = this;
    deadline_timer_.log = log;
    deadline_timer_.cancelable = 1;

    // a worker that quits does not wait for a connection that nobody waits for
    retry_timer_.handler = on_retry;
    retry_timer_.data = this;
    retry_timer_.log = log;
    retry_timer_.cancelable = 1;

    connect();
}

void RedisConnection::close() noexcept
{
    state_ = State::closed;
    close_socket();

    for (ngx_event_t *timer : {&deadline_timer_, &retry_timer_}) {
        if (timer->timer_set) {
            ngx_del_timer(timer);
        }
    }

    pipeline_.close();
    pipeline_.give_up();
}

// Calls

bool RedisConnection::start(Call &call) noexcept
{
    if (down_ || state_ == State::closed) {
        call.reply = Reply();
        return true;
    }

    Millis deadline = ngx_current_msec + options_.timeout;

    if (!pipeline_.ready()) {
        deadline += options_.connect_timeout;
    }

    if (pipeline_.start(call, deadline)) {
        return true;
    }

    arm(deadline);
    write_soon();
    return false;
}

bool RedisConnection::renew(const Lease *leases, std::size_t count) noexcept
{
    if (!pipeline_.ready() || pipeline_.stalled()) {
        return false;
    }

    pipeline_.renew(leases, count, ngx_current_msec);
    arm(ngx_current_msec + options_.timeout);
    write_soon();
    return true;
}

// Connecting

void RedisConnection::connect() noexcept
{
    state_ = State::connecting;
    refusal_[0] = '\0';
    read_only_ = false;

    if (!connect_to(server().addresses[address_])) {
        try_next("it cannot be connected to", ngx_socket_errno);
    }
}

bool RedisConnection::connect_to(const ngx_addr_t &address) noexcept
{
    ngx_peer_connection_t peer{};

    peer.sockaddr = address.sockaddr;
    peer.socklen = address.socklen;
    peer.name = const_cast<ngx_str_t *>(&address.name);
    peer.get = ngx_event_get_peer;
    peer.log = &quiet_log_;
    peer.log_error = NGX_ERROR_ERR;
    peer.so_keepalive = 1;

    ngx_int_t rc = ngx_event_connect_peer(&peer);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return false;
    }

    // Not `idle`: a worker that quits keeps the connection for the results of
    // the requests that it still has.  `close` comes before nginx looks for
    // sockets that were left open.
    connection_ = peer.connection;
    connection_->data = this;
    connection_->read->handler = on_read;
    connection_->write->handler = on_write;

    if (rc == NGX_AGAIN) {
        ngx_add_timer(&retry_timer_, options_.connect_timeout);
    } else {
        established();
    }

    return true;
}

// False where the attempt has failed.
bool RedisConnection::finish_connect() noexcept
{
    ngx_err_t error = socket_error(connection_);

    if (error != 0) {
        drop("it cannot be connected to", error);
        return false;
    }

    established();
    return true;
}

void RedisConnection::established() noexcept
{
    if (retry_timer_.timer_set) {
        ngx_del_timer(&retry_timer_);
    }

    (void) ngx_tcp_nodelay(connection_);

    state_ = State::connected;
    greeted_at_ = 0;
    pipeline_.open({view(options_.user), view(options_.password),
                    static_cast<std::uint32_t>(options_.database)},
                   ngx_current_msec);
    arm(ngx_current_msec + options_.timeout);
    write_soon();
}

void RedisConnection::greeted()
{
    greeted_at_ = ngx_current_msec;
    tried_ = 0;
    refusal_logged_ = false;

    if (!down_) {
        return;
    }

    down_ = false;

    if (--all_down_ == 0) {
        ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" is back",
                      &server().name);
    }
}

// A down Redis is not complained about for each call, nor one that answers
// every call with an error.
void RedisConnection::error_answer(const char *what, const char *code, const KeyId *id)
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
}

// Reading and writing

void RedisConnection::on_read(ngx_event_t *event)
{
    auto c = static_cast<ngx_connection_t *>(event->data);

    static_cast<RedisConnection *>(c->data)->read();
}

void RedisConnection::on_write(ngx_event_t *event)
{
    auto c = static_cast<ngx_connection_t *>(event->data);

    static_cast<RedisConnection *>(c->data)->write();
}

void RedisConnection::read() noexcept
{
    u_char bytes[kReadSize];

    if (state_ == State::connecting && !finish_connect()) {
        return;
    }

    // the event may be edge-triggered: until there is no more
    for ( ;; ) {
        ssize_t n = connection_->recv(connection_, bytes, sizeof(bytes));

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == 0 || n == NGX_ERROR) {
            drop("it closed the connection", n == 0 ? 0 : ngx_socket_errno);
            return;
        }

        pipeline_.input({reinterpret_cast<char *>(bytes), static_cast<std::size_t>(n)},
                        ngx_current_msec);

        if (pipeline_.fault() != nullptr) {
            break;
        }
    }

    if (ngx_handle_read_event(connection_->read, 0) != NGX_OK) {
        drop("its socket cannot be watched", 0);
        return;
    }

    check();
    write_soon();
}

void RedisConnection::write() noexcept
{
    if (state_ == State::connecting && !finish_connect()) {
        return;
    }

    if (pipeline_.fault() != nullptr) {
        check();
        return;
    }

    if (!write_some()) {
        drop("it cannot be written to", ngx_socket_errno);
        return;
    }

    if (ngx_handle_write_event(connection_->write, 0) != NGX_OK) {
        drop("its socket cannot be watched", 0);
    }
}

// Writes as much as the socket takes.  False where it is broken.
bool RedisConnection::write_some() noexcept
{
    iovec pieces[kPieces];
    ngx_buf_t buffers[kPieces];
    ngx_chain_t links[kPieces];

    for ( ;; ) {
        std::size_t n = pipeline_.output(pieces, kPieces);

        if (n == 0) {
            return true;
        }

        ngx_memzero(buffers, n * sizeof(ngx_buf_t));

        for (std::size_t i = 0; i < n; i++) {
            buffers[i].pos = static_cast<u_char *>(pieces[i].iov_base);
            buffers[i].last = buffers[i].pos + pieces[i].iov_len;
            buffers[i].memory = 1;
            links[i].buf = &buffers[i];
            links[i].next = i + 1 < n ? &links[i + 1] : nullptr;
        }

        off_t before = connection_->sent;
        ngx_chain_t *rest = connection_->send_chain(connection_, links, 0);

        if (rest == NGX_CHAIN_ERROR) {
            return false;
        }

        pipeline_.wrote(static_cast<std::size_t>(connection_->sent - before));

        if (rest != nullptr) {
            return true;
        }
    }
}

// At the end of this turn of the event loop, so that all commands of one turn
// share a system call.
void RedisConnection::write_soon() noexcept
{
    if (state_ == State::connected && connection_->write->ready) {
        ngx_post_event(connection_->write, &ngx_posted_events);
    }
}

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

    note_stall();

    // a worker that quits waits for what is in flight, not for the timer
    if (pipeline_.idle()) {
        deadline_timer_.cancelable = 1;
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
                      "commands until it does", &server().name, options_.timeout);
    } else {
        ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" answers again",
                      &server().name);
    }
}

void RedisConnection::drop(const char *why, ngx_err_t error) noexcept
{
    bool was_greeted = state_ == State::connected && pipeline_.ready();
    bool in_order = state_ == State::connected && greeted_at_ != 0
                    && ngx_current_msec - greeted_at_ >= kInOrder;
    // Redis closes idle connections, and so does what stands in between: that
    // it is down is known when it cannot be connected to again
    bool again = in_order && was_greeted && !pipeline_.stalled() && !read_only_;

    close_socket();
    stall_logged_ = false;
    greeted_at_ = 0;

    if (in_order) {
        rests_ = 0;
    }

    // another address of the name may be that of the new master
    if (read_only_) {
        address_ = (address_ + 1) % server().address_count;
    }

    if (again) {
        ngx_log_error(NGX_LOG_INFO, log_, error, "idempotency: redis \"%V\": %s", &server().name,
                      why);
        state_ = State::resting;
        pipeline_.close();
        connect();
    } else if (was_greeted || in_order) {
        rest(why, error);
    } else {
        try_next(why, error);
    }
}

// An attempt has failed: on to the next address, or a rest after the last.
void RedisConnection::try_next(const char *why, ngx_err_t error) noexcept
{
    address_ = (address_ + 1) % server().address_count;

    if (++tried_ < server().address_count) {
        state_ = State::resting;
        pipeline_.close();
        connect();
        return;
    }

    rest(why, error);
}

void RedisConnection::rest(const char *why, ngx_err_t error) noexcept
{
    // once for each time that it is down, and once more where it is up and
    // refuses: what it says is what has to be put right
    bool refuses = refusal_[0] != '\0' && !refusal_logged_;
    bool is_first = !down_ && all_down_++ == 0;
    ngx_uint_t level = is_first || refuses ? NGX_LOG_ERR : NGX_LOG_INFO;

    refusal_logged_ = refusal_logged_ || refuses;

    ngx_log_error(level, log_, error, "idempotency: redis \"%V\" is unavailable: %s",
                  &server().name, why);

    // before the calls end, which may start others
    state_ = State::resting;
    down_ = true;
    tried_ = 0;
    ngx_add_timer(&retry_timer_, rest_length(rests_++));

    pipeline_.close();
    pipeline_.give_up();
    deadline_timer_.cancelable = 1;
}

void RedisConnection::close_socket() noexcept
{
    if (retry_timer_.timer_set) {
        ngx_del_timer(&retry_timer_);
    }

    if (connection_ != nullptr) {
        ngx_close_connection(connection_);
        connection_ = nullptr;
    }
}

// Timers

// The timer may be earlier than the next deadline: `on_deadline` sets it anew.
void RedisConnection::arm(Millis deadline) noexcept
{
    ngx_event_t *timer = &deadline_timer_;

    timer->cancelable = 0;

    if (timer->timer_set) {
        if (static_cast<ngx_msec_int_t>(timer->timer.key - deadline) <= 0) {
            return;
        }

        ngx_del_timer(timer);
    }

    ngx_add_timer(timer, deadline > ngx_current_msec ? deadline - ngx_current_msec : 0);
}

void RedisConnection::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisConnection *>(event->data);

    self->pipeline_.expire(ngx_current_msec);
    self->deadline_timer_.cancelable = 1;

    Millis next = self->pipeline_.next_deadline();

    if (next != RedisPipeline::kNever) {
        self->arm(next);
    }

    self->check();
}

void RedisConnection::on_retry(ngx_event_t *event)
{
    auto self = static_cast<RedisConnection *>(event->data);

    if (self->state_ == State::connecting) {
        self->drop("it cannot be connected to", NGX_ETIMEDOUT);
    } else {
        self->connect();
    }
}

}  // namespace idempotency
