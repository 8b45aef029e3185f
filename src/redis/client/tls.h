// TLS to the servers of a store, through nginx's OpenSSL functions (ngx_ssl_*).

#pragma once

#include "nginx/nginx.h"

#include "redis/client/options.h"

namespace idempotency {

// What all connections of a store share.
struct RedisTls;

// Created with the configuration and freed with its pool.  `options` must be valid
// as long; `store` is the store's name, for the log.  Null where a file cannot be
// used or nginx has no TLS: the reason is logged.
RedisTls *create_redis_tls(ngx_conf_t *cf, const RedisTlsOptions &options,
                           const ngx_str_t &store) noexcept;

// The TLS of one socket, which may have one connection after another.
class RedisTlsChannel {
public:
    // Null: no TLS; then only `is_used`, `shut_down` and `drop_session` may be called.
    explicit RedisTlsChannel(RedisTls *tls) noexcept : tls_(tls) {}
    ~RedisTlsChannel() { drop_session(); }

    RedisTlsChannel(const RedisTlsChannel &) = delete;
    RedisTlsChannel &operator=(const RedisTlsChannel &) = delete;

    bool is_used() const { return tls_ != nullptr; }

    // `socket_log` is the log of the connections.  What nginx logs there is saved as
    // the `reason` of a failure; only alerts and debugging messages go to `log`.
    void capture_log(ngx_log_t &socket_log, ngx_log_t *log) noexcept;

    // Starts the handshake with the server `host`.  Returns NGX_AGAIN, and `done` is
    // called when the handshake has ended; else it has ended already.  `session` is
    // called for each session that the server sends (from within OpenSSL), and must
    // call `save_session`.
    ngx_int_t start_handshake(ngx_connection_t *c, const ngx_str_t &host,
                              ngx_connection_handler_pt done,
                              ngx_connection_handler_pt session) noexcept;

    // Whether a handshake that has ended was successful.
    static bool has_succeeded(const ngx_connection_t *c) noexcept;

    // After a handshake: whether the certificate is valid and for that server.
    bool verify(ngx_connection_t *c, const ngx_str_t &host) noexcept;

    // Why TLS has failed, valid until the next `start_handshake`; `unknown` where
    // nothing was logged.
    const char *reason(const char *unknown) noexcept;

    // The next connection resumes this session.
    void save_session(ngx_connection_t *c) noexcept;

    // The next connection starts a new session.
    void drop_session() noexcept;

    // To be called before the connection is closed.
    void shut_down(ngx_connection_t *c) noexcept;

private:
    static void on_log(ngx_log_t *log, ngx_uint_t level, u_char *text, size_t length);

    const ngx_str_t &expected_name(const ngx_str_t &host) const noexcept;
    void save_reason(const u_char *text, std::size_t length) noexcept;

    RedisTls *tls_;
    ngx_log_t *log_ = nullptr;
    void *session_ = nullptr;  // an SSL_SESSION; null: none to resume
    char reason_[200] = "";
};

}  // namespace idempotency
