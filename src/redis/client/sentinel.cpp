#include "redis/client/sentinel.h"

#include <charconv>

#include <hiredis/hiredis.h>

#include "nginx/timer.h"
#include "redis/client/connection_share.h"

namespace idempotency {

namespace {

constexpr std::size_t kMaxReply = 64 * 1024;

constexpr std::string_view kRole[] = {"ROLE"};

// In milliseconds: how often a message of a sentinel starts a search at most.
constexpr ngx_msec_t kMessageInterval = 100;

std::uint32_t random_number() { return static_cast<std::uint32_t>(ngx_random()); }

// The options of the connections to the sentinels.
RedisOptions for_sentinels(const RedisOptions &options)
{
    RedisOptions out = options;

    out.tls_context = options.sentinel_tls_context;
    return out;
}

// The string that is an element of an array; empty where there is none.
std::string_view string_at(const redisReply &array, std::size_t index)
{
    if (array.type != REDIS_REPLY_ARRAY || index >= array.elements
        || (array.element[index]->type != REDIS_REPLY_STRING
            && array.element[index]->type != REDIS_REPLY_STATUS))
    {
        return {};
    }

    return {array.element[index]->str, static_cast<std::size_t>(array.element[index]->len)};
}

// False where `host` or `port` is not valid.
bool parse_endpoint(std::string_view host, std::string_view port, RedisEndpoint &out)
{
    std::uint64_t number = 0;
    auto end = port.data() + port.size();
    auto read = std::from_chars(port.data(), end, number);

    return read.ec == std::errc() && read.ptr == end && !host.empty() && out.set(host, number);
}

}  // namespace

RedisSentinel::RedisSentinel(const RedisOptions &options) noexcept
    : options_(options), sentinel_options_(for_sentinels(options)), sentinels_(options_),
      node_(options_, servers_[0].server(), scripts_, *this), scan_(options_),
      master_query_(sentinel_options_, options_.servers[0], kMaxReply, *this),
      role_query_(options_, servers_[1].server(), kMaxReply, *this),
      watch_(sentinel_options_, sentinels_, *this), votes_(sentinels_.count())
{}

const char *RedisSentinel::fault() const
{
    bool has_memory = node_.usable() && sentinels_.usable() && watch_.usable();

    return !scripts_.usable() ? "OpenSSL has no SHA-1" : !has_memory ? "no memory" : nullptr;
}

std::string_view RedisSentinel::master_name() const { return view(options_.master); }

bool RedisSentinel::open()
{
    log_ = ngx_cycle->log;
    prepare_timer(search_timer_, on_search, this, log_);

    waiting_calls_.open(log_);
    scan_.open(log_);

    for (RedisQuery *query : {&master_query_, &role_query_}) {
        query->open(log_);
    }

    first_ = static_cast<ngx_uint_t>(ngx_random()) % sentinels_.count();
    state_ = State::searching;
    search();
    watch_.open(log_);
    return true;
}

void RedisSentinel::close()
{
    state_ = State::closed;

    for (RedisQuery *query : {&master_query_, &role_query_}) {
        query->close();
    }

    watch_.close();

    cancel_timer(search_timer_);

    scan_.close();
    waiting_calls_.close();
    node_.close();
}

// Calls

bool RedisSentinel::start(Call &call)
{
    if (state_ == State::searching) {
        return waiting_calls_.add(call, options_.connect_timeout + options_.timeout
                                            + options_.replica_wait);
    }

    // a node that was never opened ends the call at once
    return node_.start(call);
}

bool RedisSentinel::walk(WalkStep &step)
{
    // a position on the former master means nothing on the new one
    step.failed = state_ != State::known || (step.position != 0 && step.part != master_changes_);

    if (step.failed) {
        return true;
    }

    step.part = master_changes_;
    return scan_.start(step, node_.server(), true);
}

StoreFigures RedisSentinel::figures()
{
    StoreFigures figures;

    figures.engine = "redis";
    figures.up = state_ != State::lost && node_.is_available();
    return figures;
}

std::size_t RedisSentinel::nodes(NodeState *out, std::size_t max)
{
    if (state_ != State::known || max == 0) {
        return 0;
    }

    out[0] = node_.state();
    return 1;
}

// Starts the calls that wait, as the search is over; without a master each ends
// at once.
void RedisSentinel::start_waiting() noexcept
{
    Millis deadline;

    while (Call *call = waiting_calls_.take_next(deadline)) {
        if (node_.start(*call, deadline, false)) {
            call->ended(*call);
        }
    }
}

// Events of the node

void RedisSentinel::node_unavailable(RedisNode &) { search_soon(); }

void RedisSentinel::read_only(RedisNode &) { search_soon(); }

void RedisSentinel::node_available(RedisNode &)
{
    if (watcher_ != nullptr) {
        watcher_->store_is_back();
    }
}

// The search for the master

void RedisSentinel::search_soon() noexcept
{
    if (state_ == State::closed) {
        return;
    }

    if (master_query_.busy() || role_query_.busy()) {
        search_again_ = true;
        return;
    }

    fire_within(search_timer_, search_backoff_.retry_delay(ngx_current_msec, random_number()));
}

void RedisSentinel::on_search(ngx_event_t *event)
{
    static_cast<RedisSentinel *>(event->data)->search();
}

void RedisSentinel::search() noexcept
{
    search_again_ = false;
    queried_ = 0;
    votes_.restart();
    rejection_[0] = '\0';

    (void) query_next();
}

// False where all sentinels have been queried.
bool RedisSentinel::query_next() noexcept
{
    if (queried_ >= sentinels_.count()) {
        return false;
    }

    RedisServer &server = sentinels_[(first_ + queried_++) % sentinels_.count()];

    master_command_[0] = "SENTINEL";
    master_command_[1] = "GET-MASTER-ADDR-BY-NAME";
    master_command_[2] = master_name();
    master_query_.start(server,
                        {master_command_, 3, options_.sentinel_user, options_.sentinel_password});
    return true;
}

// The last sentinel has not ended the search; `fault` is the reason.
void RedisSentinel::query_next_or_decide(const char *fault, ngx_err_t error) noexcept
{
    if (!query_next()) {
        act_on(votes_.decide(state_ == State::known, has_available_master()), fault, error);
    }
}

void RedisSentinel::act_on(const RedisSentinelVotes::Decision &decision, const char *fault,
                           ngx_err_t error) noexcept
{
    switch (decision.step) {
    case RedisSentinelVotes::Step::keep_master:
        end_search(nullptr, 0);
        break;
    case RedisSentinelVotes::Step::query_next:
        query_next_or_decide(decision.reason, 0);
        break;
    case RedisSentinelVotes::Step::check_role:
        check_role(*decision.candidate, master_query_.server());
        break;
    case RedisSentinelVotes::Step::no_master:
        end_search(fault, error);
        break;
    }
}

const char *RedisSentinel::read(RedisQuery &query, const redisReply &reply)
{
    return &query == &role_query_ ? read_role(reply) : read_master(reply);
}

const char *RedisSentinel::read_role(const redisReply &reply) noexcept
{
    std::string_view role = string_at(reply, 0);

    return role == "master" ? nullptr
           : role.empty()   ? "its reply to ROLE cannot be read"
                            : "it is not a master";
}

const char *RedisSentinel::read_master(const redisReply &reply) noexcept
{
    if (reply.type == REDIS_REPLY_NIL) {
        return "it does not know the master";
    }

    return parse_endpoint(string_at(reply, 0), string_at(reply, 1), named_)
               ? nullptr
               : "its reply cannot be read";
}

// This runs within an event of another connection, where none may be opened: the timer
// starts the search.
void RedisSentinel::master_may_have_changed()
{
    if (master_query_.busy() || role_query_.busy()) {
        search_again_ = true;
    } else if (state_ != State::closed) {
        fire_within(search_timer_, kMessageInterval);
    }
}

void RedisSentinel::ended(RedisQuery &query, const char *fault, ngx_err_t error)
{
    if (fault != nullptr) {
        ngx_log_error(NGX_LOG_INFO, log_, error,
                      "idempotency: the query to %s \"%V\" of store \"%V\" failed: %s",
                      &query == &role_query_ ? "redis" : "redis sentinel", &query.server().name,
                      &options_.store, fault);
    }

    if (&query == &master_query_) {
        if (fault != nullptr) {
            query_next_or_decide(fault, error);
            return;
        }

        bool is_master = state_ == State::known && current().is(named_, query.server());

        act_on(votes_.add_vote(named_, is_master, has_available_master()), nullptr, 0);
    } else if (fault != nullptr) {
        reject_candidate(fault);
        query_next_or_decide(fault, error);
    } else {
        switch_to_candidate();
    }
}

void RedisSentinel::reject_candidate(const char *why) noexcept
{
    const RedisServer &server = candidate().server();

    *ngx_snprintf(reinterpret_cast<u_char *>(rejection_), sizeof(rejection_) - 1, "\"%V\": %s",
                  &server.name, why) = '\0';
    votes_.reject(view(server.host), server.port);
}

// `source` is the sentinel that named the server.
void RedisSentinel::check_role(const RedisEndpoint &endpoint, const RedisServer &source) noexcept
{
    if (!candidate().set(endpoint, source, options_)) {
        end_search("no memory", 0);
        return;
    }

    role_query_.start(candidate().server(), {kRole, 1, options_.user, options_.password});
}

// The candidate has replied that it is a master.
void RedisSentinel::switch_to_candidate() noexcept
{
    bool is_first = state_ != State::known;

    if (!is_first && current().server().port == candidate().server().port
        && view(current().server().host) == view(candidate().server().host))
    {
        end_search(nullptr, 0);
        return;
    }

    current_ = 1 - current_;
    master_changes_++;
    ngx_log_error(NGX_LOG_NOTICE, log_, 0,
                  "idempotency: redis \"%V\" is the master \"%V\" of store \"%V\"",
                  &current().server().name, &options_.master, &options_.store);
    node_.retarget(current().server());

    if (is_first) {
        node_.open(log_, RedisConnectionShare::is_scarce());
        state_ = State::known;
    }

    end_search(nullptr, 0);
    start_waiting();
}

// `fault` is null where the master is known now.
void RedisSentinel::end_search(const char *fault, ngx_err_t error) noexcept
{
    search_backoff_.attempted(ngx_current_msec);

    if (fault == nullptr) {
        failure_logged_ = false;
        // the next search begins with the sentinel that has ended this one
        first_ = (first_ + queried_ + sentinels_.count() - (queried_ > 0)) % sentinels_.count();
    } else {
        report_failure(fault, error);
    }

    if (fault != nullptr && state_ == State::searching) {
        state_ = State::lost;
        start_waiting();
    }

    bool is_urgent = fault != nullptr || search_again_ || !node_.is_available();

    fire_within(search_timer_, is_urgent
                                   ? search_backoff_.retry_delay(ngx_current_msec, random_number())
                                   : RedisBackoff::refresh_delay(random_number()));
}

void RedisSentinel::report_failure(const char *fault, ngx_err_t error) noexcept
{
    ngx_uint_t level = failure_logged_ ? NGX_LOG_INFO : NGX_LOG_ERR;

    ngx_log_error(level, log_, error,
                  "idempotency: no sentinel of store \"%V\" names a server that is the master "
                  "\"%V\": %s",
                  &options_.store, &options_.master, rejection_[0] != '\0' ? rejection_ : fault);
    failure_logged_ = true;
}

}  // namespace idempotency
