#include "redis/client/cluster.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// How many nodes are asked before it goes on with those of the configuration.
constexpr ngx_uint_t kNodesAsked = 3;

// How often a call or a lease is sent on to another node.
constexpr unsigned kMostRedirects = 5;

constexpr ngx_msec_t kSweepInterval = 1000;
constexpr std::size_t kLongestAnswer = 4 * 1024 * 1024;

constexpr std::string_view kQuestion[] = {"CLUSTER", "SLOTS"};

std::uint32_t any_number() { return static_cast<std::uint32_t>(ngx_random()); }

}  // namespace

RedisCluster::RedisCluster(const RedisOptions &options) noexcept
    : options_(options), slotter_(view(options_.prefix)), members_(options_, scripts_, *this),
      inquiry_(options_, options_.servers[0], kLongestAnswer, *this)
{}

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
    } const timers[] = {{&refresh_timer_, on_refresh}, {&sweep_timer_, on_sweep}};

    for (const auto &each : timers) {
        each.timer->handler = each.handler;
        each.timer->data = this;
        each.timer->log = log_;
        each.timer->cancelable = 1;
    }

    members_.open(log_);
    waiting_.open(log_);
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

    for (ngx_event_t *timer : {&refresh_timer_, &sweep_timer_}) {
        if (timer->timer_set) {
            ngx_del_timer(timer);
        }
    }

    waiting_.close();
    members_.close();
}

// Calls

bool RedisCluster::start(Call &call)
{
    call.redirects = 0;

    if (state_ == State::searching) {
        return waiting_.wait(call,
                             options_.connect_timeout + options_.timeout + options_.replica_wait);
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

// There is a map now, or there won't be one soon.
void RedisCluster::end_waiting() noexcept
{
    Millis deadline;

    while (Call *call = waiting_.next(deadline)) {
        RedisNode *node = members_.owner(slotter_.slot(call->id));

        call->reply = Reply();

        if (node == nullptr || node->start(*call, deadline, false)) {
            call->ended(*call);
        }
    }
}

// What the nodes tell

void RedisCluster::node_lost(RedisNode &) { refresh_soon(); }

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
        && endpoint.set(redirect.host, redirect.port)) {
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

    again.asking = redirect.ask;

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

    fire_within(refresh_timer_, pace_.hurry(ngx_current_msec, any_number()));
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

const char *RedisCluster::read(RedisInquiry &, const redisReply &reply) { return map_.read(reply); }

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

    pace_.asked(ngx_current_msec);

    bool is_urgent = fault != nullptr || again_ || !members_.all_answer();

    fire_within(refresh_timer_, is_urgent ? pace_.hurry(ngx_current_msec, any_number())
                                          : RedisPace::term(any_number()));

    if (!sweep_timer_.timer_set) {
        ngx_add_timer(&sweep_timer_, kSweepInterval);
    }
}

void RedisCluster::take_map(const RedisServer &teller) noexcept
{
    if (failure_logged_) {
        failure_logged_ = false;
        ngx_log_error(NGX_LOG_NOTICE, log_, 0,
                      "idempotency: redis \"%V\" tells the map of its cluster again", &teller.name);
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
                  "the last of them, \"%V\": %s",
                  &options_.store, &inquiry_.server().name, why);
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
