// The addresses of one server: those that were known at the start, or those that
// nginx's `resolver` has for the server's name at run time.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>

#include "redis/client/options.h"

namespace idempotency {

// Whether a host is an IP address, so that there is nothing to resolve.
bool is_address(const ngx_str_t &host) noexcept;

class RedisAddresses {
public:
    class Events {
    public:
        // The resolver has replied, or has failed.  Never called from within
        // `resolve`.
        virtual void resolved() = 0;

    protected:
        ~Events() = default;
    };

    // All three outlive this object.
    RedisAddresses(const RedisOptions &options, RedisServer &server, Events &events) noexcept;
    ~RedisAddresses();

    RedisAddresses(const RedisAddresses &) = delete;
    RedisAddresses &operator=(const RedisAddresses &) = delete;

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;

    // Cancels what the resolver is asked for.  The addresses stay.
    void close() noexcept;

    // Drops the addresses, and is for another server from now on, which outlives this
    // object.
    void retarget(RedisServer &server) noexcept;

    // Resolves the server's name, if there is a resolver for it.  True where there is
    // nothing to wait for; else Events::resolved is called within `connect_timeout`.
    // Afterwards the name is resolved again from time to time, and
    // Events::resolved is called each time.
    bool resolve() noexcept;

    // Takes over the last reply of the resolver: the addresses change only here.
    // Returns the new index of the address that had `index`, or 0 where it is not
    // among the addresses any more.
    std::size_t update(std::size_t index) noexcept;
    std::size_t count() const { return current_.count; }
    const ngx_addr_t &operator[](std::size_t index) const { return current_.first[index]; }

    // False where the last reply of the resolver lacks that address.
    bool is_still_valid(std::size_t index) const noexcept;

    // Why there are no addresses.  Valid until the next call.
    const char *reason() noexcept;

private:
    struct List {
        ngx_addr_t *first = nullptr;
        std::size_t count = 0;
        void *memory = nullptr;  // of the addresses; null: they belong to the RedisServer
    };

    static void on_reply(ngx_resolver_ctx_t *context);
    static void on_notify(ngx_event_t *event);
    static void on_refresh(ngx_event_t *event);

    bool uses_resolver() const noexcept;
    bool start_resolving() noexcept;
    void handle_reply(const ngx_resolver_ctx_t &context) noexcept;
    void handle_failure(ngx_int_t state) noexcept;
    bool copy_addresses(const ngx_resolver_ctx_t &context) noexcept;
    void refresh_after(ngx_msec_t time) noexcept;

    static bool same(const ngx_addr_t &a, const ngx_addr_t &b) noexcept;
    static std::size_t find(const List &list, const ngx_addr_t &address) noexcept;
    static void free(List &list) noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Events &events_;

    List current_;
    List resolved_;        // the last reply of the resolver; empty: none since `update`
    bool failed_ = false;  // the resolver had no addresses the last time
    ngx_int_t state_ = 0;  // of that failure, as nginx's resolver has it

    ngx_log_t *log_ = nullptr;
    ngx_resolver_ctx_t *context_ = nullptr;  // while the name is being resolved
    bool is_starting_ = false;               // the reply may come within ngx_resolve_name
    ngx_event_t notify_event_{};             // calls Events::resolved outside the resolver
    ngx_event_t refresh_timer_{};
    char reason_[80] = "";
    u_char name_[256];  // the resolver changes it to lower case
};

}  // namespace idempotency
