// The addresses of one server: those of the start, or what nginx's `resolver`
// tells of its name at run time.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>

#include "redis/client/options.h"

namespace idempotency {

// Whether a host is an IP address, so that there is nothing to resolve.
bool is_address(const ngx_str_t &host) noexcept;

class RedisNames {
public:
    class Events {
    public:
        // What was asked for is there, or could not be told.  Never called from
        // within `look`.
        virtual void resolved() = 0;

    protected:
        ~Events() = default;
    };

    // All three outlive this object.
    RedisNames(const RedisOptions &options, RedisServer &server, Events &events) noexcept;
    ~RedisNames();

    RedisNames(const RedisNames &) = delete;
    RedisNames &operator=(const RedisNames &) = delete;

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;

    // Asks for nothing any more.  What is known stays so.
    void close() noexcept;

    // Of another server from now on.  What is known is forgotten.
    void retarget(RedisServer &server) noexcept;

    // True where what can be known is known already; else `resolved` is called,
    // within `connect_timeout`.  From time to time it is called unasked, while
    // the name is one that the resolver knows.
    bool look() noexcept;

    // The addresses, which change only when `adopt` is called: that takes what
    // has been heard, and gives the new place of the address that was `index`,
    // or 0 where it is gone.
    std::size_t adopt(std::size_t index) noexcept;
    std::size_t count() const { return known_.count; }
    const ngx_addr_t &operator[](std::size_t index) const { return known_.first[index]; }

    // False where what has been heard lacks that one.
    bool has_still(std::size_t index) const noexcept;

    // Why there are no addresses.
    const char *why() noexcept;

private:
    struct List {
        ngx_addr_t *first = nullptr;
        std::size_t count = 0;
        void *memory = nullptr;  // null: another's
    };

    static void on_answer(ngx_resolver_ctx_t *context);
    static void on_told(ngx_event_t *event);
    static void on_time(ngx_event_t *event);

    bool is_asked() const noexcept;
    bool ask() noexcept;
    void answered(const ngx_resolver_ctx_t &context) noexcept;
    void failed(ngx_int_t state) noexcept;
    bool hear(const ngx_resolver_ctx_t &context) noexcept;
    void ask_again(ngx_msec_t time) noexcept;

    static bool same(const ngx_addr_t &a, const ngx_addr_t &b) noexcept;
    static std::size_t find(const List &list, const ngx_addr_t &address) noexcept;
    static void free(List &list) noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Events &events_;

    List known_;
    List heard_;            // empty: nothing new
    bool unknown_ = false;  // the resolver could not tell, the last time
    ngx_int_t state_ = 0;   // and why

    ngx_log_t *log_ = nullptr;
    ngx_resolver_ctx_t *context_ = nullptr;  // while it is asked
    bool asking_ = false;                    // the answer may come from within
    ngx_event_t told_{};                     // to tell what came, out of the resolver's own loops
    ngx_event_t timer_{};
    char why_[80] = "";
    u_char name_[256];  // the resolver writes into it
};

}  // namespace idempotency
