// TLS to the servers of a store, by the OpenSSL that nginx has.

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"

namespace idempotency {

// What the connections of a store have in common.
struct RedisTls;

// Made once, with the configuration, and freed with it.  `options` and `store`,
// the store's name, live as long.  Null where a file cannot be used or nginx has
// no TLS: the log says so.
RedisTls *create_redis_tls(ngx_conf_t *cf, const RedisTlsOptions &options,
                           const ngx_str_t &store) noexcept;

// The TLS of one socket, for one connection after the other.
class RedisTlsChannel {
public:
    // Null: there is none, and only `is_used`, `end` and `forget` may be called.
    explicit RedisTlsChannel(RedisTls *tls) noexcept : tls_(tls) {}
    ~RedisTlsChannel() { forget(); }

    RedisTlsChannel(const RedisTlsChannel &) = delete;
    RedisTlsChannel &operator=(const RedisTlsChannel &) = delete;

    bool is_used() const { return tls_ != nullptr; }

    // `quiet` is the log that connections get: what it is told is kept here, to
    // tell what went wrong, and goes to `log` only where it is an alert.
    void listen(ngx_log_t &quiet, ngx_log_t *log) noexcept;

    // Begins the handshake with the server `host`.  Whether it has succeeded,
    // or NGX_AGAIN: then `done` is called.  `session` is called for each session
    // that the server gives, from within nginx's OpenSSL, and calls `keep`.
    ngx_int_t begin(ngx_connection_t *c, const ngx_str_t &host, ngx_connection_handler_pt done,
                    ngx_connection_handler_pt session) noexcept;

    // Ended is not yet succeeded.
    static bool has_succeeded(const ngx_connection_t *c) noexcept;

    // After a handshake: is it that server?
    bool verify(ngx_connection_t *c, const ngx_str_t &host) noexcept;

    // What went wrong, until the next `begin`; `otherwise` where nothing is known.
    const char *why(const char *otherwise) noexcept;

    void keep(ngx_connection_t *c) noexcept;

    // The next connection begins a session of its own.
    void forget() noexcept;

    // Before the connection is closed.
    void end(ngx_connection_t *c) noexcept;

private:
    static void on_log(ngx_log_t *log, ngx_uint_t level, u_char *text, size_t length);

    const ngx_str_t &name_of(const ngx_str_t &host) const noexcept;
    void note(const u_char *text, std::size_t length) noexcept;

    RedisTls *tls_;
    ngx_log_t *log_ = nullptr;
    void *session_ = nullptr;  // of OpenSSL; null: none to go on with
    char why_[200] = "";
};

}  // namespace idempotency
