#include "store/ngx_redis_cluster.h"

#include <algorithm>

namespace idempotency {

namespace {

// The map is asked for again at a random time between these.
constexpr ngx_msec_t kShortestTerm = 15000;
constexpr ngx_msec_t kLongestTerm = 30000;

// Where something does not fit, the first time at once, then after pauses that
// become longer: a failover takes seconds, and each worker asks.
constexpr ngx_msec_t kShortestPause = 100;
constexpr ngx_msec_t kLongestPause = 1000;
constexpr ngx_msec_t kCalm = 3000;          // after so long it is the first time again

// How many nodes are asked before it goes on with those of the configuration.
constexpr ngx_uint_t kNodesAsked = 3;

// How often a call or a lease is sent on to another node.
constexpr unsigned kMostRedirects = 5;

constexpr ngx_msec_t kSweepInterval = 1000;
constexpr std::size_t kLongestAnswer = 4 * 1024 * 1024;

constexpr std::string_view kQuestion[] = {"CLUSTER", "SLOTS"};

std::string_view view(const ngx_str_t &text)
{
    return {reinterpret_cast<const char *>(text.data), text.len};
}

// Half of `most`, and a random part of the other half: workers do not act in step.
ngx_msec_t about(ngx_msec_t most)
{
    return most / 2 + static_cast<ngx_msec_t>(ngx_random()) % (most / 2 + 1);
}

ngx_msec_t pause_after(ngx_uint_t hurries)
{
    return about(std::min(kShortestPause << std::min<ngx_uint_t>(hurries, 8), kLongestPause));
}

}  // namespace

RedisCluster::RedisCluster(const RedisOptions &options) noexcept
    : options_(options), slotter_(view(options_.prefix)), members_(options_, scripts_, *this),
      inquiry_(options_, options_.servers[0], kLongestAnswer, *this)
{
}

const char *RedisCluster::fault() const
{
    return scripts_.usable() ? nullptr : "OpenSSL has no SHA-1";
}

bool RedisCluster::open()
{
    log_ = ngx_cycle->log;

    struct {
        ngx_event_t *timer;
        ngx_event_handler_pt handler;
    } const timers[] = {{&refresh_timer_, on_refresh},
                        {&deadline_timer_, on_deadline},
                        {&sweep_timer_, on_sweep}};

    for (const auto &each : timers) {
        each.timer->handler = each.handler;
        each.timer->data = this;
        each.timer->log = log_;
        each.timer->cancelable = 1;
    }

    // a worker that quits waits for calls
    deadline_timer_.cancelable = 0;

    members_.open(log_);
    inquiry_.open(log_);
    first_seed_ = static_cast<ngx_uint_t>(ngx_random()) % options_.server_count;
    state_ = State::searching;
    refresh();
    return true;
}

void RedisCluster::close()
{
    state_ = State::closed;
    inquiry_.close();

    for (ngx_event_t *timer : {&refresh_timer_, &deadline_timer_, &sweep_timer_}) {
        if (timer->timer_set) {
            ngx_del_timer(timer);
        }
    }

    waiting_.end_all();
    members_.close();
}

// Calls

bool RedisCluster::start(Call &call)
{
    call.redirects = 0;

    if (state_ != State::known) {
        return wait(call);
    }

    RedisNode *node = members_.owner(slotter_.slot(call.id));

    if (node != nullptr) {
        return node->start(call);
    }

    refresh_soon();
    call.reply = Reply();
    return true;
}

void RedisCluster::renew(const Lease *leases, std::size_t count)
{
    for (std::size_t i = 0; i < count; i++) {
        RedisNode *node = members_.owner(slotter_.slot(leases[i].id));

        if (node != nullptr) {
            node->renew(&leases[i], 1);
        }
    }
}

StoreFigures RedisCluster::figures()
{
    StoreFigures figures;

    figures.engine = "redis";
    figures.up = state_ != State::lost && members_.all_answer();
    return figures;
}

// Until there is a map.
bool RedisCluster::wait(Call &call) noexcept
{
    Millis deadline = ngx_current_msec + options_.connect_timeout + options_.timeout;

    if (state_ != State::searching || !waiting_.push(call, deadline)) {
        call.reply = Reply();
        return true;
    }

    if (!deadline_timer_.timer_set) {
        ngx_add_timer(&deadline_timer_, options_.connect_timeout + options_.timeout);
    }

    return false;
}

void RedisCluster::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisCluster *>(event->data);

    self->waiting_.expire(ngx_current_msec);

    Millis next = self->waiting_.next_deadline();

    if (next != RedisWaiting::kNever && !event->timer_set) {
        ngx_add_timer(event, next > ngx_current_msec ? next - ngx_current_msec : 1);
    }
}

// There is a map now, or there won't be one soon.
void RedisCluster::end_waiting() noexcept
{
    Millis deadline;

    if (deadline_timer_.timer_set) {
        ngx_del_timer(&deadline_timer_);
    }

    while (Call *call = waiting_.pop(deadline)) {
        RedisNode *node = members_.owner(slotter_.slot(call->id));

        call->reply = Reply();

        if (node == nullptr || node->start(*call, deadline, false)) {
            call->ended(*call);
        }
    }
}

// What the nodes tell

void RedisCluster::node_down(RedisNode &) { refresh_soon(); }

void RedisCluster::node_answers_again(RedisNode &)
{
    if (watcher_ != nullptr) {
        watcher_->store_is_back();
    }
}

void RedisCluster::read_only(RedisNode &) { refresh_soon(); }

void RedisCluster::cluster_down(RedisNode &) { refresh_soon(); }

// The node that another one names, or null.
RedisNode *RedisCluster::follow(RedisNode &from, const KeyId &id,
                                const RedisRedirect &redirect) noexcept
{
    RedisEndpoint endpoint;
    RedisNode *node = nullptr;

    // "?": it does not know the name itself
    if (state_ == State::known && redirect.host != "?"
        && endpoint.set(redirect.host, redirect.port))
    {
        node = members_.find_or_add(endpoint, from.server());
    }

    if (!redirect.ask) {
        refresh_soon();

        if (node != nullptr) {
            members_.assign(slotter_.slot(id), *node);
        }
    }

    return node;
}

void RedisCluster::redirected(RedisNode &from, Call &call, Millis deadline,
                              const RedisRedirect &redirect)
{
    RedisNode *node = follow(from, call.id, redirect);

    call.reply = Reply();

    if (node == nullptr || call.redirects++ >= kMostRedirects || deadline <= ngx_current_msec
        || node->start(call, deadline, redirect.ask))
    {
        call.ended(call);
    }
}

void RedisCluster::lease_redirected(RedisNode &from, const Lease &lease,
                                    const RedisRedirect &redirect)
{
    RedisNode *node = follow(from, lease.id, redirect);
    Lease again = lease;

    if (node != nullptr && again.redirects++ < kMostRedirects) {
        node->renew(&again, 1);
    }
}

// The map

// Something does not fit it any more.
void RedisCluster::refresh_soon() noexcept
{
    if (state_ == State::closed) {
        return;
    }

    if (inquiry_.busy()) {
        again_ = true;
        return;
    }

    ngx_msec_t passed = ngx_current_msec - refreshed_at_;

    if (passed >= kCalm) {
        hurries_ = 0;
    }

    if (hurries_ == 0) {
        set_refresh(about(kShortestPause / 10));
        return;
    }

    ngx_msec_t pause = pause_after(hurries_);

    set_refresh(pause > passed ? pause - passed : 1);
}

// It may be earlier already.
void RedisCluster::set_refresh(ngx_msec_t delay) noexcept
{
    if (refresh_timer_.timer_set) {
        if (static_cast<ngx_msec_int_t>(refresh_timer_.timer.key - (ngx_current_msec + delay)) <= 0)
        {
            return;
        }

        ngx_del_timer(&refresh_timer_);
    }

    ngx_add_timer(&refresh_timer_, delay);
}

void RedisCluster::on_refresh(ngx_event_t *event)
{
    static_cast<RedisCluster *>(event->data)->refresh();
}

void RedisCluster::refresh() noexcept
{
    round_++;
    nodes_asked_ = 0;
    seeds_asked_ = 0;
    again_ = false;
    (void) ask_next();
}

// False where all have been asked.
bool RedisCluster::ask_next() noexcept
{
    RedisNode *node = nodes_asked_ < kNodesAsked ? members_.pick(round_) : nullptr;
    RedisServer *server;

    if (node != nullptr) {
        nodes_asked_++;
        server = &node->server();
    } else if (seeds_asked_ < options_.server_count) {
        server = &options_.servers[(first_seed_ + seeds_asked_++) % options_.server_count];
    } else {
        return false;
    }

    inquiry_.ask(*server, {kQuestion, 2, options_.user, options_.password});
    return true;
}

const char *RedisCluster::read(RedisInquiry &, const redisReply &reply)
{
    return map_.read(reply);
}

void RedisCluster::ended(RedisInquiry &inquiry, const char *fault, ngx_err_t error)
{
    if (fault != nullptr) {
        ngx_log_error(NGX_LOG_INFO, log_, error,
                      "idempotency: redis \"%V\" tells no map of its cluster: %s",
                      &inquiry.server().name, fault);
    }

    if (fault == nullptr) {
        take_map(inquiry.server());
    } else if (ask_next()) {
        return;
    } else {
        note_failure(fault, error);
    }

    refreshed_at_ = ngx_current_msec;
    hurries_++;

    bool is_urgent = fault != nullptr || again_ || members_.any_down();

    set_refresh(is_urgent ? pause_after(hurries_)
                          : kShortestTerm + static_cast<ngx_msec_t>(ngx_random())
                                                % (kLongestTerm - kShortestTerm));

    if (!sweep_timer_.timer_set) {
        ngx_add_timer(&sweep_timer_, kSweepInterval);
    }
}

void RedisCluster::take_map(const RedisServer &teller) noexcept
{
    if (failure_logged_) {
        failure_logged_ = false;
        ngx_log_error(NGX_LOG_NOTICE, log_, 0,
                      "idempotency: redis \"%V\" tells the map of its cluster again",
                      &teller.name);
    }

    members_.apply(map_, teller);
    state_ = State::known;
    end_waiting();
}

// Without a map calls end at once from now on; an old map stays in use.
void RedisCluster::note_failure(const char *why, ngx_err_t error) noexcept
{
    ngx_uint_t level = failure_logged_ ? NGX_LOG_INFO : NGX_LOG_ERR;

    ngx_log_error(level, log_, error,
                  "idempotency: no node of the cluster of store \"%V\" tells its map, "
                  "the last of them, \"%V\": %s", &options_.store, &inquiry_.server().name, why);
    failure_logged_ = true;

    if (state_ == State::searching) {
        state_ = State::lost;
        end_waiting();
    }
}

void RedisCluster::on_sweep(ngx_event_t *event)
{
    auto self = static_cast<RedisCluster *>(event->data);

    if (self->members_.sweep(self->inquiry_.busy() ? &self->inquiry_.server() : nullptr)) {
        ngx_add_timer(event, kSweepInterval);
    }
}

}  // namespace idempotency
