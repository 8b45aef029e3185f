#include "redis/client/addresses.h"

#include <algorithm>
#include <cstdlib>

#include "nginx/resolver.h"
#include "nginx/timer.h"

namespace idempotency {

namespace {

// When a name is resolved again: after its TTL, within these limits; and after a
// failure.
constexpr ngx_msec_t kMinRefresh = 1000;
constexpr ngx_msec_t kMaxRefresh = 60 * 1000;
constexpr ngx_msec_t kRefreshAfterFailure = 10 * 1000;

// nginx's default of `resolver_timeout`.
constexpr ngx_msec_t kResolverTimeout = 30 * 1000;

// All connections try the addresses in the same order, whatever the order in the
// reply is.
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
    u_char bytes[16];

    if (ngx_inet6_addr(host.data, host.len, bytes) == NGX_OK) {
        return true;
    }
#endif

    return ngx_inet_addr(host.data, host.len) != INADDR_NONE;
}

RedisAddresses::RedisAddresses(const RedisOptions &options, RedisServer &server,
                               Events &events) noexcept
    : options_(options), server_(&server), events_(events)
{}

RedisAddresses::~RedisAddresses()
{
    close();
    free(resolved_);
    free(current_);
}

void RedisAddresses::open(ngx_log_t *log) noexcept
{
    log_ = log;

    notify_event_.handler = on_notify;
    notify_event_.data = this;
    notify_event_.log = log;

    prepare_timer(refresh_timer_, on_refresh, this, log);
}

void RedisAddresses::close() noexcept
{
    if (context_ != nullptr) {
        ngx_resolve_name_done(context_);
        context_ = nullptr;
    }

    if (notify_event_.posted) {
        ngx_delete_posted_event(&notify_event_);
    }

    cancel_timer(refresh_timer_);
}

void RedisAddresses::retarget(RedisServer &server) noexcept
{
    close();
    free(resolved_);
    free(current_);
    server_ = &server;
    failed_ = false;
}

// Resolving

bool RedisAddresses::uses_resolver() const noexcept
{
    if (server_->is_one_of_several) {
        return false;
    }

    return options_.resolver != nullptr && has_servers(*options_.resolver) && server_->host.len > 0
           && server_->host.len <= sizeof(name_) && !is_address(server_->host);
}

bool RedisAddresses::resolve() noexcept
{
    if (current_.first == nullptr) {
        current_ = {server_->addresses, server_->address_count, nullptr};
    }

    if (!uses_resolver()) {
        return true;
    }

    // a connection does not wait for a resolver that has failed the last time: the
    // known addresses are used meanwhile
    bool waits = !failed_ || current_.count == 0;

    return start_resolving() || !waits;
}

// True where the resolver has replied or failed already.
bool RedisAddresses::start_resolving() noexcept
{
    if (context_ != nullptr || notify_event_.posted) {
        return false;
    }

    ngx_resolver_ctx_t *context = ngx_resolve_start(*options_.resolver, nullptr);

    if (context == nullptr || context == NGX_NO_RESOLVER) {
        handle_failure(NGX_RESOLVE_SERVFAIL);
        return true;
    }

    ngx_msec_t timeout =
        options_.resolver_timeout != nullptr && *options_.resolver_timeout != NGX_CONF_UNSET_MSEC
            ? *options_.resolver_timeout
            : kResolverTimeout;

    ngx_memcpy(name_, server_->host.data, server_->host.len);
    context->name.data = name_;
    context->name.len = server_->host.len;
    context->handler = on_reply;
    context->data = this;
    context->timeout = std::min(timeout, options_.connect_timeout);
    context->cancelable = 1;

    context_ = context;
    is_starting_ = true;

    // ngx_resolve_name frees the context where it fails
    if (ngx_resolve_name(context) != NGX_OK) {
        context_ = nullptr;
        handle_failure(NGX_RESOLVE_SERVFAIL);
    }

    is_starting_ = false;
    return context_ == nullptr;
}

void RedisAddresses::on_reply(ngx_resolver_ctx_t *context)
{
    auto self = static_cast<RedisAddresses *>(context->data);

    self->handle_reply(*context);
    self->context_ = nullptr;
    ngx_resolve_name_done(context);

    // The resolver is in a loop over all contexts that wait for this name.  The event
    // may cancel other contexts, which must not happen within the loop.
    if (!self->is_starting_) {
        ngx_post_event(&self->notify_event_, &ngx_posted_events);
    }
}

void RedisAddresses::on_notify(ngx_event_t *event)
{
    static_cast<RedisAddresses *>(event->data)->events_.resolved();
}

void RedisAddresses::on_refresh(ngx_event_t *event)
{
    auto self = static_cast<RedisAddresses *>(event->data);

    if (self->start_resolving()) {
        self->events_.resolved();
    }
}

// Replies

void RedisAddresses::handle_reply(const ngx_resolver_ctx_t &context) noexcept
{
    if (context.state != NGX_OK || context.naddrs == 0 || !copy_addresses(context)) {
        handle_failure(context.state != NGX_OK ? context.state : NGX_RESOLVE_SERVFAIL);
        return;
    }

    failed_ = false;

    if (server_->unknown) {
        server_->unknown = false;
        ngx_log_error(NGX_LOG_WARN, log_, 0,
                      "idempotency: redis \"%V\" of store \"%V\" is resolved again", &server_->name,
                      &options_.store);
    }

    time_t rest = context.valid - ngx_time();
    ngx_msec_t time = rest > 0 ? static_cast<ngx_msec_t>(rest) * 1000 : 0;

    // `valid` is the last second of the TTL
    refresh_after(std::clamp(time + 1000, kMinRefresh, kMaxRefresh));
}

// Logged once for all connections of the server.  Where no address is known nothing
// is logged here: the connection logs that the server is unavailable.
void RedisAddresses::handle_failure(ngx_int_t state) noexcept
{
    failed_ = true;
    state_ = state;
    refresh_after(kRefreshAfterFailure);

    if (current_.count == 0 || server_->unknown) {
        return;
    }

    server_->unknown = true;
    ngx_log_error(NGX_LOG_ERR, log_, 0,
                  "idempotency: redis \"%V\" of store \"%V\" cannot be resolved (%i: %s): its last "
                  "known addresses "
                  "stay in use",
                  &server_->name, &options_.store, state, ngx_resolver_strerror(state));
}

const char *RedisAddresses::reason() noexcept
{
    if (!failed_) {
        return "its name cannot be resolved, and there is no \"resolver\" in http{}";
    }

    *ngx_snprintf(reinterpret_cast<u_char *>(reason_), sizeof(reason_) - 1,
                  "its name cannot be resolved (%i: %s)", state_, ngx_resolver_strerror(state_)) =
        '\0';
    return reason_;
}

void RedisAddresses::refresh_after(ngx_msec_t time) noexcept
{
    cancel_timer(refresh_timer_);

    ngx_add_timer(&refresh_timer_, time);
}

// False where there is no memory.
bool RedisAddresses::copy_addresses(const ngx_resolver_ctx_t &context) noexcept
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
    free(resolved_);
    resolved_ = {addresses, n, memory};
    return true;
}

// Lists

bool RedisAddresses::same(const ngx_addr_t &a, const ngx_addr_t &b) noexcept
{
    return ngx_cmp_sockaddr(a.sockaddr, a.socklen, b.sockaddr, b.socklen, 1) == NGX_OK;
}

std::size_t RedisAddresses::find(const List &list, const ngx_addr_t &address) noexcept
{
    std::size_t i = 0;

    while (i < list.count && !same(list.first[i], address)) {
        i++;
    }

    return i;
}

void RedisAddresses::free(List &list) noexcept
{
    std::free(list.memory);
    list = List();
}

std::size_t RedisAddresses::update(std::size_t index) noexcept
{
    if (resolved_.first == nullptr) {
        return index < current_.count ? index : 0;
    }

    std::size_t new_index =
        index < current_.count ? find(resolved_, current_.first[index]) : resolved_.count;

    free(current_);
    current_ = resolved_;
    resolved_ = List();
    return new_index < current_.count ? new_index : 0;
}

bool RedisAddresses::is_still_valid(std::size_t index) const noexcept
{
    return resolved_.first == nullptr || index >= current_.count
           || find(resolved_, current_.first[index]) < resolved_.count;
}

}  // namespace idempotency
