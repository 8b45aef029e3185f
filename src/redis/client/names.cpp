#include "redis/client/names.h"

#include <algorithm>
#include <cstdlib>

namespace idempotency {

namespace {

// How long an answer is taken for true: whatever the name server says of that,
// and whenever it does not answer.
constexpr ngx_msec_t kShortest = 1000;
constexpr ngx_msec_t kLongest = 60 * 1000;
constexpr ngx_msec_t kUnknown = 10 * 1000;

// Of nginx itself, where `resolver_timeout` is not given.
constexpr ngx_msec_t kResolverTimeout = 30 * 1000;

// All connections try them in the same order, whatever that of the answer is.
bool comes_first(const ngx_addr_t &a, const ngx_addr_t &b)
{
    if (a.sockaddr->sa_family != b.sockaddr->sa_family) {
        return a.sockaddr->sa_family == AF_INET;
    }

    return ngx_memcmp(a.sockaddr, b.sockaddr, std::min(a.socklen, b.socklen)) < 0;
}

}  // namespace

bool is_address(const ngx_str_t &host) noexcept
{
#if (NGX_HAVE_INET6)
    u_char room[16];

    if (ngx_inet6_addr(host.data, host.len, room) == NGX_OK) {
        return true;
    }
#endif

    return ngx_inet_addr(host.data, host.len) != INADDR_NONE;
}

RedisNames::RedisNames(const RedisOptions &options, RedisServer &server, Events &events) noexcept
    : options_(options), server_(&server), events_(events)
{}

RedisNames::~RedisNames()
{
    close();
    free(heard_);
    free(known_);
}

void RedisNames::open(ngx_log_t *log) noexcept
{
    log_ = log;

    told_.handler = on_told;
    told_.data = this;
    told_.log = log;

    timer_.handler = on_time;
    timer_.data = this;
    timer_.log = log;
    timer_.cancelable = 1;
}

void RedisNames::close() noexcept
{
    if (context_ != nullptr) {
        ngx_resolve_name_done(context_);
        context_ = nullptr;
    }

    if (told_.posted) {
        ngx_delete_posted_event(&told_);
    }

    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }
}

void RedisNames::retarget(RedisServer &server) noexcept
{
    close();
    free(heard_);
    free(known_);
    server_ = &server;
    unknown_ = false;
}

// Asking

bool RedisNames::is_asked() const noexcept
{
    return options_.resolver != nullptr && *options_.resolver != nullptr
           && (*options_.resolver)->connections.nelts > 0 && server_->host.len > 0
           && server_->host.len <= sizeof(name_) && !is_address(server_->host);
}

bool RedisNames::look() noexcept
{
    if (known_.first == nullptr) {
        known_ = {server_->addresses, server_->address_count, nullptr};
    }

    if (!is_asked()) {
        return true;
    }

    // nobody is to wait for a resolver that does not answer: what is known is
    // used until it does
    bool waits = !unknown_ || known_.count == 0;

    return ask() || !waits;
}

// True where the answer is there, whatever it is.
bool RedisNames::ask() noexcept
{
    if (context_ != nullptr || told_.posted) {
        return false;
    }

    ngx_resolver_ctx_t *context = ngx_resolve_start(*options_.resolver, nullptr);

    if (context == nullptr || context == NGX_NO_RESOLVER) {
        failed(NGX_RESOLVE_SERVFAIL);
        return true;
    }

    ngx_msec_t timeout =
        options_.resolver_timeout != nullptr && *options_.resolver_timeout != NGX_CONF_UNSET_MSEC
            ? *options_.resolver_timeout
            : kResolverTimeout;

    ngx_memcpy(name_, server_->host.data, server_->host.len);
    context->name.data = name_;
    context->name.len = server_->host.len;
    context->handler = on_answer;
    context->data = this;
    context->timeout = std::min(timeout, options_.connect_timeout);
    context->cancelable = 1;

    context_ = context;
    asking_ = true;

    // frees the context where it fails
    if (ngx_resolve_name(context) != NGX_OK) {
        context_ = nullptr;
        failed(NGX_RESOLVE_SERVFAIL);
    }

    asking_ = false;
    return context_ == nullptr;
}

void RedisNames::on_answer(ngx_resolver_ctx_t *context)
{
    auto self = static_cast<RedisNames *>(context->data);

    self->answered(*context);
    self->context_ = nullptr;
    ngx_resolve_name_done(context);

    // the resolver goes through all who wait for this name: what follows may
    // end the waiting of others, which must not happen in between
    if (!self->asking_) {
        ngx_post_event(&self->told_, &ngx_posted_events);
    }
}

void RedisNames::on_told(ngx_event_t *event)
{
    static_cast<RedisNames *>(event->data)->events_.resolved();
}

void RedisNames::on_time(ngx_event_t *event)
{
    auto self = static_cast<RedisNames *>(event->data);

    if (self->ask()) {
        self->events_.resolved();
    }
}

// Answers

void RedisNames::answered(const ngx_resolver_ctx_t &context) noexcept
{
    if (context.state != NGX_OK || context.naddrs == 0 || !hear(context)) {
        failed(context.state != NGX_OK ? context.state : NGX_RESOLVE_SERVFAIL);
        return;
    }

    unknown_ = false;

    if (server_->unknown) {
        server_->unknown = false;
        ngx_log_error(NGX_LOG_NOTICE, log_, 0, "idempotency: redis \"%V\" is resolved again",
                      &server_->name);
    }

    time_t rest = context.valid - ngx_time();
    ngx_msec_t time = rest > 0 ? static_cast<ngx_msec_t>(rest) * 1000 : 0;

    // valid is the last second of it
    ask_again(std::clamp(time + 1000, kShortest, kLongest));
}

// The log is told once, whoever of the server's connections notices.  Where
// nothing is known there is no connection either, of which it is told.
void RedisNames::failed(ngx_int_t state) noexcept
{
    unknown_ = true;
    state_ = state;
    ask_again(kUnknown);

    if (known_.count == 0 || server_->unknown) {
        return;
    }

    server_->unknown = true;
    ngx_log_error(NGX_LOG_ERR, log_, 0,
                  "idempotency: redis \"%V\" cannot be resolved (%i: %s): its last known addresses "
                  "go on being used",
                  &server_->name, state, ngx_resolver_strerror(state));
}

const char *RedisNames::why() noexcept
{
    if (!unknown_) {
        return "its name is not known, and there is no \"resolver\" in http{}";
    }

    *ngx_snprintf(reinterpret_cast<u_char *>(why_), sizeof(why_) - 1,
                  "its name cannot be resolved (%i: %s)", state_, ngx_resolver_strerror(state_)) =
        '\0';
    return why_;
}

void RedisNames::ask_again(ngx_msec_t time) noexcept
{
    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    ngx_add_timer(&timer_, time);
}

// False where there is no memory.
bool RedisNames::hear(const ngx_resolver_ctx_t &context) noexcept
{
    std::size_t n = context.naddrs;
    std::size_t size = n * (sizeof(ngx_sockaddr_t) + sizeof(ngx_addr_t) + NGX_SOCKADDR_STRLEN);
    auto memory = static_cast<u_char *>(std::calloc(1, size));

    if (memory == nullptr) {
        return false;
    }

    auto sockaddrs = reinterpret_cast<ngx_sockaddr_t *>(memory);
    auto addresses = reinterpret_cast<ngx_addr_t *>(sockaddrs + n);
    auto texts = reinterpret_cast<u_char *>(addresses + n);

    for (std::size_t i = 0; i < n; i++) {
        ngx_addr_t &to = addresses[i];
        const ngx_resolver_addr_t &from = context.addrs[i];

        to.sockaddr = &sockaddrs[i].sockaddr;
        to.socklen = from.socklen;
        ngx_memcpy(to.sockaddr, from.sockaddr, from.socklen);
        ngx_inet_set_port(to.sockaddr, server_->port);
        to.name.data = texts + i * NGX_SOCKADDR_STRLEN;
        to.name.len = ngx_sock_ntop(to.sockaddr, to.socklen, to.name.data, NGX_SOCKADDR_STRLEN, 1);
    }

    std::sort(addresses, addresses + n, comes_first);
    free(heard_);
    heard_ = {addresses, n, memory};
    return true;
}

// Lists

bool RedisNames::same(const ngx_addr_t &a, const ngx_addr_t &b) noexcept
{
    return ngx_cmp_sockaddr(a.sockaddr, a.socklen, b.sockaddr, b.socklen, 1) == NGX_OK;
}

std::size_t RedisNames::find(const List &list, const ngx_addr_t &address) noexcept
{
    std::size_t i = 0;

    while (i < list.count && !same(list.first[i], address)) {
        i++;
    }

    return i;
}

void RedisNames::free(List &list) noexcept
{
    std::free(list.memory);
    list = List();
}

std::size_t RedisNames::adopt(std::size_t index) noexcept
{
    if (heard_.first == nullptr) {
        return index < known_.count ? index : 0;
    }

    std::size_t place = index < known_.count ? find(heard_, known_.first[index]) : heard_.count;

    free(known_);
    known_ = heard_;
    heard_ = List();
    return place < known_.count ? place : 0;
}

bool RedisNames::has_still(std::size_t index) const noexcept
{
    return heard_.first == nullptr || index >= known_.count
           || find(heard_, known_.first[index]) < heard_.count;
}

}  // namespace idempotency
