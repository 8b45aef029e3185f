#include "redis/client/sentinel.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <hiredis/hiredis.h>

#include "nginx/timer.h"

namespace idempotency {

namespace {

constexpr std::size_t kLongestAnswer = 64 * 1024;

constexpr std::string_view kChannel = "+switch-master";
constexpr std::string_view kRole[] = {"ROLE"};
constexpr std::string_view kSubscribe[] = {"SUBSCRIBE", kChannel};

std::uint32_t any_number() { return static_cast<std::uint32_t>(ngx_random()); }

// The text of an element, or nothing.
std::string_view text(const redisReply &list, std::size_t index)
{
    if (list.type != REDIS_REPLY_ARRAY || index >= list.elements
        || (list.element[index]->type != REDIS_REPLY_STRING
            && list.element[index]->type != REDIS_REPLY_STATUS))
    {
        return {};
    }

    return {list.element[index]->str, static_cast<std::size_t>(list.element[index]->len)};
}

bool set(RedisEndpoint &out, std::string_view host, std::string_view port)
{
    std::uint64_t number = 0;
    auto end = port.data() + port.size();
    auto read = std::from_chars(port.data(), end, number);

    return read.ec == std::errc() && read.ptr == end && !host.empty() && out.set(host, number);
}

std::string_view take_word(std::string_view &rest)
{
    std::size_t end = rest.find(' ');
    std::string_view word = rest.substr(0, end);

    rest = end != std::string_view::npos ? rest.substr(end + 1) : std::string_view();
    return word;
}

}  // namespace

RedisSentinel::RedisSentinel(const RedisOptions &options) noexcept
    : options_(options), node_(options_, peers_[0].server(), scripts_, *this),
      inquiry_(options_, options_.servers[0], kLongestAnswer, *this),
      probe_(options_, peers_[1].server(), kLongestAnswer, *this),
      listener_(options_, options_.servers[0], kLongestAnswer, *this)
{}

const char *RedisSentinel::fault() const
{
    return !scripts_.usable() ? "OpenSSL has no SHA-1" : !node_.usable() ? "no memory" : nullptr;
}

std::string_view RedisSentinel::master() const { return view(options_.master); }

bool RedisSentinel::open()
{
    log_ = ngx_cycle->log;
    look_timer_.handler = on_look;
    listen_timer_.handler = on_listen;

    for (ngx_event_t *timer : {&look_timer_, &listen_timer_}) {
        timer->data = this;
        timer->log = log_;
        timer->cancelable = 1;
    }

    waiting_.open(log_);

    for (RedisInquiry *inquiry : {&inquiry_, &probe_, &listener_}) {
        inquiry->open(log_);
    }

    first_ = static_cast<ngx_uint_t>(ngx_random()) % options_.server_count;
    listened_ = first_;
    state_ = State::searching;
    look();
    listen();
    return true;
}

void RedisSentinel::close()
{
    state_ = State::closed;

    for (RedisInquiry *inquiry : {&inquiry_, &probe_, &listener_}) {
        inquiry->close();
    }

    for (ngx_event_t *timer : {&look_timer_, &listen_timer_}) {
        if (timer->timer_set) {
            ngx_del_timer(timer);
        }
    }

    waiting_.close();
    node_.close();
}

// Calls

bool RedisSentinel::start(Call &call)
{
    if (state_ == State::searching) {
        return waiting_.wait(call,
                             options_.connect_timeout + options_.timeout + options_.replica_wait);
    }

    // a node that was never opened ends it at once
    return node_.start(call);
}

StoreFigures RedisSentinel::figures()
{
    StoreFigures figures;

    figures.engine = "redis";
    figures.up = state_ != State::lost && node_.answers();
    return figures;
}

// There is a master now, or there won't be one soon.
void RedisSentinel::end_waiting() noexcept
{
    Millis deadline;

    while (Call *call = waiting_.next(deadline)) {
        if (node_.start(*call, deadline, false)) {
            call->ended(*call);
        }
    }
}

// What the node tells

void RedisSentinel::node_lost(RedisNode &) { look_soon(); }

void RedisSentinel::read_only(RedisNode &) { look_soon(); }

void RedisSentinel::node_answers_again(RedisNode &)
{
    if (watcher_ != nullptr) {
        watcher_->store_is_back();
    }
}

// Looking for the master

// There is a reason to.
void RedisSentinel::look_soon() noexcept
{
    if (state_ == State::closed) {
        return;
    }

    if (inquiry_.busy() || probe_.busy()) {
        again_ = true;
        return;
    }

    fire_within(look_timer_, pace_.hurry(ngx_current_msec, any_number()));
}

void RedisSentinel::on_look(ngx_event_t *event)
{
    static_cast<RedisSentinel *>(event->data)->look();
}

void RedisSentinel::look() noexcept
{
    again_ = false;
    asked_ = 0;
    std::fill_n(votes_, kMostNamed, Named());
    refusal_[0] = '\0';

    // what the listener has heard is newer than what was asked for
    if (heard_some_) {
        heard_some_ = false;
        inquiry_.close();
        probe_.close();
        probe(heard_, listener_.server());
        return;
    }

    (void) ask_next();
}

// False where all have been asked.
bool RedisSentinel::ask_next() noexcept
{
    if (asked_ >= options_.server_count) {
        return false;
    }

    RedisServer &server = options_.servers[(first_ + asked_++) % options_.server_count];

    question_[0] = "SENTINEL";
    question_[1] = "GET-MASTER-ADDR-BY-NAME";
    question_[2] = master();
    inquiry_.ask(server, {question_, 3, options_.sentinel_user, options_.sentinel_password});
    return true;
}

const char *RedisSentinel::read(RedisInquiry &inquiry, const redisReply &reply)
{
    if (&inquiry == &listener_) {
        return read_message(reply);
    }

    if (&inquiry == &probe_) {
        std::string_view role = text(reply, 0);

        return role == "master" ? nullptr
               : role.empty()   ? "its answer to ROLE cannot be read"
                                : "it is not a master";
    }

    if (reply.type == REDIS_REPLY_NIL) {
        return "it does not know the master";
    }

    return set(named_, text(reply, 0), text(reply, 1)) ? nullptr : "its answer cannot be read";
}

// Of a new master: "NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT".
const char *RedisSentinel::read_message(const redisReply &reply) noexcept
{
    std::string_view kind = text(reply, 0);

    // what was said before is lost: from here on nothing is
    if (kind == "subscribe") {
        look_soon();
        return nullptr;
    }

    if (kind != "message" || text(reply, 1) != kChannel) {
        return "its message cannot be read";
    }

    std::string_view rest = text(reply, 2);

    if (take_word(rest) != master()) {
        return nullptr;
    }

    take_word(rest);
    take_word(rest);

    std::string_view host = take_word(rest);

    // from within the connection's own event nothing is connected to
    if (set(heard_, host, take_word(rest))) {
        heard_some_ = true;
        fire_within(look_timer_, 0);
    }

    return nullptr;
}

void RedisSentinel::ended(RedisInquiry &inquiry, const char *fault, ngx_err_t error)
{
    if (fault != nullptr) {
        ngx_log_error(NGX_LOG_INFO, log_, error, "idempotency: redis \"%V\", asked %s: %s",
                      &inquiry.server().name,
                      &inquiry == &probe_ ? "for its role" : "as a sentinel", fault);
    }

    if (&inquiry == &listener_) {
        listened_ = (listened_ + 1) % options_.server_count;
        ngx_add_timer(&listen_timer_, listener_pace_.hurry(ngx_current_msec, any_number()));
    } else if (&inquiry == &inquiry_) {
        fault != nullptr ? go_on(fault, error) : weigh_named(inquiry.server());
    } else if (fault != nullptr) {
        refute(fault);
        go_on(fault, error);
    } else {
        adopt();
    }
}

// A sentinel has named a master.
void RedisSentinel::weigh_named(const RedisServer &teller) noexcept
{
    bool answers = state_ == State::known && node_.answers();

    if (state_ == State::known && current().is(named_, teller)) {
        answers ? end_look(nullptr, 0) : go_on("it names the one that does not answer", 0);
        return;
    }

    Named *named = count_vote();

    if (named == nullptr || named->refuted) {
        go_on("it names one that is no master", 0);
    } else if (2 * named->votes > options_.server_count) {
        probe(named->endpoint, teller);
    } else {
        go_on("too few name the same", 0);
    }
}

RedisSentinel::Named *RedisSentinel::count_vote() noexcept
{
    auto end = votes_ + kMostNamed;
    auto at = std::find_if(votes_, end, [this](const Named &each) {
        return each.votes == 0
               || (each.endpoint.port == named_.port
                   && std::strcmp(each.endpoint.host, named_.host) == 0);
    });

    if (at == end) {
        return nullptr;
    }

    at->endpoint = named_;
    at->votes++;
    return at;
}

// All have been asked, and no master is named by more than half of them.
void RedisSentinel::decide(const char *fault, ngx_err_t error) noexcept
{
    if (state_ == State::known && node_.answers()) {
        end_look(nullptr, 0);
        return;
    }

    auto best = std::max_element(votes_, votes_ + kMostNamed, [](const Named &a, const Named &b) {
        return (a.refuted ? 0 : a.votes) < (b.refuted ? 0 : b.votes);
    });

    if (best->votes > 0 && !best->refuted) {
        probe(best->endpoint, inquiry_.server());
    } else {
        end_look(fault, error);
    }
}

// The candidate is none.
void RedisSentinel::refute(const char *why) noexcept
{
    *ngx_snprintf(reinterpret_cast<u_char *>(refusal_), sizeof(refusal_) - 1, "\"%V\": %s",
                  &candidate().server().name, why) = '\0';

    for (Named &each : votes_) {
        each.refuted =
            each.refuted || (each.votes > 0 && candidate().is(each.endpoint, candidate().server()));
    }
}

void RedisSentinel::probe(const RedisEndpoint &endpoint, const RedisServer &teller) noexcept
{
    if (!candidate().set(endpoint, teller, options_)) {
        end_look("no memory", 0);
        return;
    }

    probe_.ask(candidate().server(), {kRole, 1, options_.user, options_.password});
}

// The candidate says that it is a master.
void RedisSentinel::adopt() noexcept
{
    bool is_new = state_ != State::known;

    if (!is_new && current().server().port == candidate().server().port
        && view(current().server().host) == view(candidate().server().host))
    {
        end_look(nullptr, 0);
        return;
    }

    current_ = 1 - current_;
    ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" is the master \"%V\"",
                  &current().server().name, &options_.master);
    node_.retarget(current().server());

    if (is_new) {
        node_.open(log_);
        state_ = State::known;
    }

    end_look(nullptr, 0);
    end_waiting();
}

// This sentinel was of no use: on to the next.
void RedisSentinel::go_on(const char *fault, ngx_err_t error) noexcept
{
    if (!ask_next()) {
        decide(fault, error);
    }
}

void RedisSentinel::end_look(const char *fault, ngx_err_t error) noexcept
{
    pace_.asked(ngx_current_msec);

    if (fault == nullptr) {
        failure_logged_ = false;
        // the one that was right is asked first the next time
        first_ = (first_ + asked_ + options_.server_count - (asked_ > 0)) % options_.server_count;
    } else {
        ngx_uint_t level = failure_logged_ ? NGX_LOG_INFO : NGX_LOG_ERR;

        ngx_log_error(level, log_, error,
                      "idempotency: no sentinel of store \"%V\" names a master \"%V\" that is one: "
                      "%s",
                      &options_.store, &options_.master, refusal_[0] != '\0' ? refusal_ : fault);
        failure_logged_ = true;
    }

    if (fault != nullptr && state_ == State::searching) {
        state_ = State::lost;
        end_waiting();
    }

    bool is_urgent = fault != nullptr || again_ || !node_.answers();

    fire_within(look_timer_, is_urgent ? pace_.hurry(ngx_current_msec, any_number())
                                       : RedisPace::term(any_number()));
}

// One sentinel tells by itself

void RedisSentinel::listen() noexcept
{
    listener_pace_.asked(ngx_current_msec);
    listener_.ask(options_.servers[listened_],
                  {kSubscribe, 2, options_.sentinel_user, options_.sentinel_password, true});
}

void RedisSentinel::on_listen(ngx_event_t *event)
{
    static_cast<RedisSentinel *>(event->data)->listen();
}

}  // namespace idempotency
