#include "redis/client/cluster.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// How many known nodes are queried before the servers of the configuration.
constexpr ngx_uint_t kMaxNodesQueried = 3;

// How often a call is redirected.
constexpr unsigned kMaxRedirects = 5;

constexpr ngx_msec_t kFreeInterval = 1000;
// In bytes.  A map with 1,000 masters and two replicas of each has some 300 KB; one in which many
// slots have moved one by one has more.
constexpr std::size_t kMaxReply = 1024 * 1024;

constexpr std::string_view kCommand[] = {"CLUSTER", "SLOTS"};

std::uint32_t random_number() { return static_cast<std::uint32_t>(ngx_random()); }

}  // namespace

RedisCluster::RedisCluster(const RedisOptions &options) noexcept
    : options_(options), key_slots_(view(options_.prefix)), nodes_(options_, scripts_, *this),
      scan_(options_), query_(options_, options_.servers[0], kMaxReply, *this)
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
    } const timers[] = {{&refresh_timer_, on_refresh}, {&free_timer_, on_free_unused}};

    for (const auto &each : timers) {
        each.timer->handler = each.handler;
        each.timer->data = this;
        each.timer->log = log_;
        each.timer->cancelable = 1;
    }

    nodes_.open(log_);
    waiting_calls_.open(log_);
    query_.open(log_);
    scan_.open(log_);
    first_seed_ = static_cast<ngx_uint_t>(ngx_random()) % options_.server_count;
    state_ = State::searching;
    refresh();
    return true;
}

void RedisCluster::close()
{
    state_ = State::closed;
    query_.close();

    for (ngx_event_t *timer : {&refresh_timer_, &free_timer_}) {
        cancel_timer(*timer);
    }

    scan_.close();
    waiting_calls_.close();
    nodes_.close();
}

// Calls

bool RedisCluster::start(Call &call)
{
    call.redirects = 0;

    if (state_ == State::searching) {
        return waiting_calls_.add(call, options_.connect_timeout + options_.timeout
                                            + options_.replica_wait);
    }

    RedisNode *node = nodes_.node_of(key_slots_.slot(call.id));

    if (node != nullptr) {
        return node->start(call);
    }

    refresh_soon();
    call.reply = Reply();
    return true;
}

// A part is one node.  After a failover a position on the former master means nothing on the new
// one, which may also come before the current part.
bool RedisCluster::walk(WalkStep &step)
{
    if (step.part == 0 && step.position == 0) {
        walk_changes_ = nodes_.changes();
    }

    bool is_usable = state_ == State::known && walk_changes_ == nodes_.changes();
    RedisNode *node = is_usable ? nodes_.next_with_slots(step.part) : nullptr;

    if (node == nullptr) {
        step.failed = !is_usable || step.part == 0;
        step.is_last = true;
        return true;
    }

    std::size_t next = step.part + 1;

    return scan_.start(step, node->server(), nodes_.next_with_slots(next) == nullptr);
}

StoreFigures RedisCluster::figures()
{
    StoreFigures figures;

    figures.engine = "redis";
    figures.up = state_ != State::lost && nodes_.all_available();
    return figures;
}

std::size_t RedisCluster::nodes(NodeState *out, std::size_t max)
{
    return nodes_.read_states(out, max);
}

// Starts the calls that wait; without a map each ends at once.
void RedisCluster::start_waiting() noexcept
{
    Millis deadline;

    while (Call *call = waiting_calls_.take_next(deadline)) {
        RedisNode *node = nodes_.node_of(key_slots_.slot(call->id));

        call->reply = Reply();

        if (node == nullptr || node->start(*call, deadline, false)) {
            call->ended(*call);
        }
    }
}

// Events of the nodes

void RedisCluster::node_unavailable(RedisNode &) { refresh_soon(); }

void RedisCluster::node_available(RedisNode &)
{
    if (watcher_ != nullptr) {
        watcher_->store_is_back();
    }
}

void RedisCluster::read_only(RedisNode &) { refresh_soon(); }

void RedisCluster::cluster_down(RedisNode &) { refresh_soon(); }

// The node to which `from` has redirected a command, or null.  MOVED also changes
// the map.
RedisNode *RedisCluster::redirect_target(RedisNode &from, const KeyId &id,
                                         const RedisRedirect &redirect) noexcept
{
    RedisEndpoint endpoint;
    RedisNode *node = nullptr;

    // "?": the node does not know the address of the other node
    if (state_ == State::known && redirect.host != "?"
        && endpoint.set(redirect.host, redirect.port)) {
        node = nodes_.find_or_add(endpoint, from.server());
    }

    if (!redirect.ask) {
        refresh_soon();

        if (node != nullptr) {
            nodes_.assign(key_slots_.slot(id), *node);
        }
    }

    return node;
}

void RedisCluster::redirected(RedisNode &from, Call &call, Millis deadline,
                              const RedisRedirect &redirect)
{
    RedisNode *node = redirect_target(from, call.id, redirect);

    call.reply = failed_reply(Cause::moved);

    if (node == nullptr || call.redirects++ >= kMaxRedirects || deadline <= ngx_current_msec
        || node->start(call, deadline, redirect.ask))
    {
        call.ended(call);
    }
}

// The map of slots

// There is a reason to refresh the map.
void RedisCluster::refresh_soon() noexcept
{
    if (state_ == State::closed) {
        return;
    }

    if (query_.busy()) {
        refresh_again_ = true;
        return;
    }

    fire_within(refresh_timer_, backoff_.retry_delay(ngx_current_msec, random_number()));
}

void RedisCluster::on_refresh(ngx_event_t *event)
{
    static_cast<RedisCluster *>(event->data)->refresh();
}

void RedisCluster::refresh() noexcept
{
    round_++;
    nodes_queried_ = 0;
    seeds_queried_ = 0;
    refresh_again_ = false;
    (void) query_next();
}

// False where all have been queried.
bool RedisCluster::query_next() noexcept
{
    RedisNode *node = nodes_queried_ < kMaxNodesQueried ? nodes_.pick(round_) : nullptr;
    RedisServer *server;

    if (node != nullptr) {
        nodes_queried_++;
        server = &node->server();
    } else if (seeds_queried_ < options_.server_count) {
        server = &options_.servers[(first_seed_ + seeds_queried_++) % options_.server_count];
    } else {
        return false;
    }

    query_.start(*server, {kCommand, 2, options_.user, options_.password});
    return true;
}

const char *RedisCluster::read(RedisQuery &, const redisReply &reply) { return map_.read(reply); }

void RedisCluster::ended(RedisQuery &query, const char *fault, ngx_err_t error)
{
    if (fault != nullptr) {
        ngx_log_error(NGX_LOG_INFO, log_, error,
                      "idempotency: the query to redis \"%V\" of store \"%V\" for the cluster's "
                      "slots failed: %s",
                      &query.server().name, &options_.store, fault);
    }

    if (fault == nullptr) {
        apply_map(query.server());
    } else if (query_next()) {
        return;
    } else {
        report_failure(fault, error);
    }

    backoff_.attempted(ngx_current_msec);

    bool is_urgent = fault != nullptr || refresh_again_ || !nodes_.all_available();

    fire_within(refresh_timer_, is_urgent ? backoff_.retry_delay(ngx_current_msec, random_number())
                                          : RedisBackoff::refresh_delay(random_number()));

    if (!free_timer_.timer_set) {
        ngx_add_timer(&free_timer_, kFreeInterval);
    }
}

void RedisCluster::apply_map(const RedisServer &source) noexcept
{
    if (failure_logged_) {
        failure_logged_ = false;
        ngx_log_error(
            NGX_LOG_WARN, log_, 0,
            "idempotency: redis \"%V\" of store \"%V\" has sent the cluster's slots again",
            &source.name, &options_.store);
    }

    nodes_.apply_map(map_, source);
    state_ = State::known;
    start_waiting();
}

// An old map stays in use.  Without one, calls end at once from now on.
void RedisCluster::report_failure(const char *why, ngx_err_t error) noexcept
{
    ngx_uint_t level = failure_logged_ ? NGX_LOG_INFO : NGX_LOG_ERR;

    ngx_log_error(level, log_, error,
                  "idempotency: no node of the cluster of store \"%V\" has sent the slots; "
                  "the last one, \"%V\": %s",
                  &options_.store, &query_.server().name, why);
    failure_logged_ = true;

    if (state_ == State::searching) {
        state_ = State::lost;
        start_waiting();
    }
}

void RedisCluster::on_free_unused(ngx_event_t *event)
{
    auto self = static_cast<RedisCluster *>(event->data);

    // the server of a step must not be freed
    if (self->scan_.busy()
        || self->nodes_.free_unused(self->query_.busy() ? &self->query_.server() : nullptr))
    {
        ngx_add_timer(event, kFreeInterval);
    }
}

}  // namespace idempotency
