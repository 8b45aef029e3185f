// A connection that gets no reply: deadlines, stalls, and checks of idle connections.

#include "nginx/timer.h"

#include "redis/client/connection.h"

namespace idempotency {

namespace {

// How often a connection is checked that no command uses: what drops the state of idle
// connections is noticed before a request meets it, and seldom drops one of these.
constexpr ngx_msec_t kIdleInterval = 10000;

// After so many checks an idle connection is closed, where connections are scarce.
constexpr unsigned kMaxUnusedChecks = 6;

}  // namespace

void RedisConnection::report_stall() noexcept
{
    if (pipeline_.stalled() == stall_reported_) {
        return;
    }

    stall_reported_ = pipeline_.stalled();

    if (stall_reported_) {
        ngx_log_error(NGX_LOG_ERR, log_, 0,
                      "idempotency: redis \"%V\" of store \"%V\" has not replied for %M ms: no "
                      "further commands are "
                      "sent until it replies",
                      &server().name, &options_.store, options_.timeout);
        owner_.stalled(*this);

        // where the last new connection has not helped either, another one does not
        if (pipeline_.is_proven()) {
            probe_.start(socket_.server());
        }
    } else {
        ngx_log_error(NGX_LOG_WARN, log_, 0,
                      "idempotency: redis \"%V\" of store \"%V\" replies again", &server().name,
                      &options_.store);
        probe_.close();
        owner_.available_again(*this);
    }
}

// A connection is closed in a way that drops what Redis has not got yet: calls have ended whose
// commands must not be carried out later.
void RedisConnection::probe_replied()
{
    if (state_ != State::connected || !pipeline_.stalled()) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, log_, 0,
                  "idempotency: redis \"%V\" of store \"%V\" replies over a new connection, and "
                  "not over the one "
                  "in use: reconnecting; does a firewall drop connections without a reset?",
                  &server().name, &options_.store);
    socket_.reset();
    failed_rounds_ = 0;
    connect();
}

// The timer may fire before the next deadline: `on_deadline` sets it again.
void RedisConnection::set_deadline_timer(Millis deadline) noexcept
{
    deadline_timer_.cancelable = 0;
    fire_within(deadline_timer_, deadline > ngx_current_msec ? deadline - ngx_current_msec : 0);
}

void RedisConnection::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisConnection *>(event->data);

    self->note_written_progress();
    self->pipeline_.expire(ngx_current_msec);
    self->deadline_timer_.cancelable = 1;

    Millis next = self->pipeline_.next_deadline();

    if (next != kNever) {
        self->set_deadline_timer(next);
    }

    self->check_pipeline();
    self->socket_.write_soon();
}

// Redis does not reply before it has all of a large value: until then the progress is what its
// host has acknowledged.
void RedisConnection::note_written_progress() noexcept
{
    std::uint64_t end = pipeline_.large_value_end();
    std::uint64_t written = pipeline_.written();
    std::size_t unacknowledged = end != 0 ? socket_.unacknowledged() : 0;

    if (end == 0 || written < unacknowledged) {
        return;
    }

    if (acknowledged_ < end && written - unacknowledged > acknowledged_) {
        pipeline_.progressed(ngx_current_msec);
    }

    acknowledged_ = written - unacknowledged;
}

void RedisConnection::start_idle_timer() noexcept
{
    prepare_timer(idle_timer_, on_idle, this, log_);
    ngx_add_timer(&idle_timer_, kIdleInterval);
}

// Where connections are scarce, another store may need this one.
bool RedisConnection::is_unused() noexcept
{
    unused_checks_ = was_used_ ? 0 : unused_checks_ + 1;
    was_used_ = false;
    return RedisConnectionShare::is_scarce() && state_ == State::connected
           && unused_checks_ >= kMaxUnusedChecks && pipeline_.ready() && pipeline_.idle();
}

void RedisConnection::on_idle(ngx_event_t *event)
{
    auto self = static_cast<RedisConnection *>(event->data);

    if (self->is_unused()) {
        self->close();
        return;
    }

    ngx_add_timer(&self->idle_timer_, kIdleInterval);

    if (self->state_ == State::connected && self->pipeline_.ready() && self->pipeline_.idle()
        && !ngx_exiting)
    {
        self->pipeline_.check(ngx_current_msec);
        self->set_deadline_timer(ngx_current_msec + self->options_.timeout);
        self->socket_.write_soon();
    }
}

void RedisConnection::server_replies() noexcept
{
    if (state_ != State::waiting_to_reconnect || !down_) {
        return;
    }

    end_outage();
    fire_within(reconnect_timer_, 0);
}

void RedisConnection::on_reconnect(ngx_event_t *event)
{
    static_cast<RedisConnection *>(event->data)->connect();
}

}  // namespace idempotency
