#include "redis/client/tls.h"

#include <algorithm>
#include <string_view>

#include "redis/client/addresses.h"

namespace idempotency {

#if (NGX_SSL)

namespace {

// How many intermediate certificates a chain may have.
constexpr ngx_int_t kMaxDepth = 9;

constexpr std::size_t kMaxName = 255;

constexpr std::string_view kSystemLibrary = "system library:";  // in OpenSSL's error texts

#ifdef NGX_SSL_DEFAULT_PROTOCOLS
constexpr ngx_uint_t kProtocols = NGX_SSL_DEFAULT_PROTOCOLS & ~NGX_CONF_BITMASK_SET;
#else
constexpr ngx_uint_t kProtocols = NGX_SSL_TLSv1_2 | NGX_SSL_TLSv1_3;
#endif

// A name with the terminating NUL that OpenSSL needs.
struct CName {
    char text[kMaxName + 1];

    // False where it is empty or too long.
    bool set(const ngx_str_t &name)
    {
        if (name.len == 0 || name.len > kMaxName) {
            return false;
        }

        *ngx_cpymem(text, name.data, name.len) = '\0';
        return true;
    }
};

bool has_certificate_for(ngx_connection_t *c, ngx_str_t name)
{
    if (!is_address(name)) {
        return ngx_ssl_check_host(c, &name) == NGX_OK;
    }

    CName address;
    X509 *certificate = SSL_get_peer_certificate(c->ssl->connection);
    bool matches = certificate != nullptr && address.set(name)
                   && X509_check_ip_asc(certificate, address.text, 0) == 1;

    X509_free(certificate);
    return matches;
}

// The text of the first error in a log line of nginx, such as "... (SSL:
// error:0A00010B:SSL routines::wrong version number)".  Empty where that error is
// one of the system, such as a connection reset: a TLS alert may still follow.
std::string_view reason_of(std::string_view text)
{
    std::size_t at = text.find("(SSL: error:");

    if (at == std::string_view::npos) {
        return {};
    }

    text.remove_prefix(at + sizeof("(SSL: error:") - 1);

    // skip code, library and function
    for (int i = 0; i < 3; i++) {
        if (text.substr(0, kSystemLibrary.size()) == kSystemLibrary) {
            return {};
        }

        text.remove_prefix(std::min(text.find(':'), text.size() - 1) + 1);
    }

    return text.substr(0, std::min({text.find(':'), text.find(')'), text.find(" error:")}));
}

// nginx has logged the reason; this line names the directive.
RedisTls *log_unusable(ngx_conf_t *cf, const ngx_str_t &store, const char *directive,
                       const ngx_str_t &file)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%s\" of store \"%V\" cannot be used: \"%V\"",
                       directive, &store, &file);
    return nullptr;
}

bool load_trusted(ngx_conf_t *cf, ngx_ssl_t &ssl, ngx_str_t file)
{
    if (ngx_ssl_trusted_certificate(cf, &ssl, &file, kMaxDepth) != NGX_OK) {
        return false;
    }

    if (file.len == 0 && SSL_CTX_set_default_verify_paths(ssl.ctx) == 0) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      const_cast<char *>("SSL_CTX_set_default_verify_paths() failed"));
        return false;
    }

    // the function may have left errors although it has succeeded
    ERR_clear_error();
    return true;
}

}  // namespace

struct RedisTls {
    const RedisTlsOptions *options;
    ngx_ssl_t ssl;
};

RedisTls *create_redis_tls(ngx_conf_t *cf, const RedisTlsOptions &options,
                           const ngx_str_t &store) noexcept
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(cf->pool, 0);
    auto tls = static_cast<RedisTls *>(ngx_pcalloc(cf->pool, sizeof(RedisTls)));

    if (cleanup == nullptr || tls == nullptr) {
        return nullptr;
    }

    tls->options = &options;
    tls->ssl.log = cf->log;

    if (ngx_ssl_create(&tls->ssl, options.protocols != 0 ? options.protocols : kProtocols, nullptr)
        != NGX_OK)
    {
        return nullptr;
    }

    cleanup->handler = ngx_ssl_cleanup_ctx;
    cleanup->data = &tls->ssl;

    if (options.verify && !load_trusted(cf, tls->ssl, options.trusted_certificate)) {
        return log_unusable(cf, store, "ssl_trusted_certificate", options.trusted_certificate);
    }

    ngx_str_t certificate = options.certificate;
    ngx_str_t key = options.certificate_key;

    if (certificate.len > 0
        && ngx_ssl_certificate(cf, &tls->ssl, &certificate, &key, nullptr) != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"ssl_certificate\" and \"ssl_certificate_key\" of store \"%V\" cannot "
                           "be used: \"%V\", \"%V\"",
                           &store, &certificate, &key);
        return nullptr;
    }

    return ngx_ssl_client_session_cache(cf, &tls->ssl, 1) == NGX_OK ? tls : nullptr;
}

// The name that the certificate must have.
const ngx_str_t &RedisTlsChannel::expected_name(const ngx_str_t &host) const noexcept
{
    return tls_->options->name.len > 0 ? tls_->options->name : host;
}

ngx_int_t RedisTlsChannel::start_handshake(ngx_connection_t *c, const ngx_str_t &host,
                                           ngx_connection_handler_pt done,
                                           ngx_connection_handler_pt session) noexcept
{
    const ngx_str_t &name = expected_name(host);
    CName server;

    reason_[0] = '\0';

    if (c->pool == nullptr) {
        c->pool = ngx_create_pool(512, c->log);
    }

    if (c->pool == nullptr
        || ngx_ssl_create_connection(&tls_->ssl, c, NGX_SSL_BUFFER | NGX_SSL_CLIENT) != NGX_OK
        || ngx_ssl_set_session(c, static_cast<SSL_SESSION *>(session_)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!is_address(name) && server.set(name)
        && SSL_set_tlsext_host_name(c->ssl->connection, server.text) == 0)
    {
        ERR_clear_error();
        return NGX_ERROR;
    }

    c->ssl->handler = done;
    c->ssl->save_session = session;
    return ngx_ssl_handshake(c);
}

bool RedisTlsChannel::has_succeeded(const ngx_connection_t *c) noexcept
{
    return c->ssl != nullptr && c->ssl->handshaked != 0;
}

bool RedisTlsChannel::verify(ngx_connection_t *c, const ngx_str_t &host) noexcept
{
    // the handshake may have left errors although it has succeeded
    ERR_clear_error();

    if (!tls_->options->verify) {
        return true;
    }

    auto out = reinterpret_cast<u_char *>(reason_);
    long result = SSL_get_verify_result(c->ssl->connection);

    if (result != X509_V_OK) {
        *ngx_snprintf(out, sizeof(reason_) - 1, "certificate verify failed: (%l: %s)", result,
                      X509_verify_cert_error_string(result)) = '\0';
        return false;
    }

    const ngx_str_t &name = expected_name(host);

    if (!has_certificate_for(c, name)) {
        *ngx_snprintf(out, sizeof(reason_) - 1, "the certificate is not for \"%V\"", &name) = '\0';
        ERR_clear_error();
        return false;
    }

    return true;
}

void RedisTlsChannel::save_session(ngx_connection_t *c) noexcept
{
    SSL_SESSION *session = ngx_ssl_get_session(c);

    if (session != nullptr) {
        drop_session();
        session_ = session;
    }
}

void RedisTlsChannel::drop_session() noexcept
{
    if (session_ != nullptr) {
        ngx_ssl_free_session(static_cast<SSL_SESSION *>(session_));
        session_ = nullptr;
    }
}

// Sends no close_notify and waits for none: all replies that matter have been read.
void RedisTlsChannel::shut_down(ngx_connection_t *c) noexcept
{
    if (tls_ == nullptr || c->ssl == nullptr) {
        return;
    }

    c->ssl->no_wait_shutdown = 1;
    c->ssl->no_send_shutdown = 1;
    (void) ngx_ssl_shutdown(c);
}

// Saves the first reason only.
void RedisTlsChannel::save_reason(const u_char *text, std::size_t length) noexcept
{
    std::string_view reason = reason_of({reinterpret_cast<const char *>(text), length});

    if (reason.empty() || reason_[0] != '\0') {
        return;
    }

    bool is_not_tls = reason == "wrong version number" || reason == "packet length too long";

    *ngx_snprintf(reinterpret_cast<u_char *>(reason_), sizeof(reason_) - 1, "TLS failed: %*s%s",
                  reason.size(), reason.data(), is_not_tls ? " (does it speak TLS?)" : "") = '\0';
}

#else

RedisTls *create_redis_tls(ngx_conf_t *cf, const RedisTlsOptions &, const ngx_str_t &store) noexcept
{
    ngx_conf_log_error(
        NGX_LOG_EMERG, cf, 0,
        "TLS in store \"%V\" (\"rediss://\" or \"master_ssl=on\") needs an nginx that is built "
        "with --with-http_ssl_module",
        &store);
    return nullptr;
}

ngx_int_t RedisTlsChannel::start_handshake(ngx_connection_t *, const ngx_str_t &,
                                           ngx_connection_handler_pt,
                                           ngx_connection_handler_pt) noexcept
{
    return NGX_ERROR;
}

bool RedisTlsChannel::has_succeeded(const ngx_connection_t *) noexcept { return false; }
bool RedisTlsChannel::verify(ngx_connection_t *, const ngx_str_t &) noexcept { return false; }
void RedisTlsChannel::save_session(ngx_connection_t *) noexcept {}
void RedisTlsChannel::drop_session() noexcept {}
void RedisTlsChannel::shut_down(ngx_connection_t *) noexcept {}
void RedisTlsChannel::save_reason(const u_char *, std::size_t) noexcept {}

#endif

void RedisTlsChannel::capture_log(ngx_log_t &socket_log, ngx_log_t *log) noexcept
{
    log_ = log;
    socket_log.writer = on_log;
    socket_log.wdata = this;
    socket_log.next = nullptr;
    socket_log.log_level = std::max<ngx_uint_t>(socket_log.log_level, NGX_LOG_INFO);
}

// Called with a line of the log: "TIME [LEVEL] PID#TID: TEXT\n".
void RedisTlsChannel::on_log(ngx_log_t *log, ngx_uint_t level, u_char *text, size_t length)
{
    auto self = static_cast<RedisTlsChannel *>(log->wdata);
    std::string_view line(reinterpret_cast<char *>(text), length);

    line.remove_prefix(std::min(line.find(": "), line.size() - 2) + 2);
    line = line.substr(0, line.find('\n'));

    // debugging messages go to the log unchanged
    if (level <= NGX_LOG_ALERT || level == NGX_LOG_DEBUG) {
        ngx_log_error(level, self->log_, 0, "%*s", line.size(), line.data());
    } else {
        self->save_reason(text, length);
    }
}

const char *RedisTlsChannel::reason(const char *unknown) noexcept
{
    return reason_[0] != '\0' ? reason_ : unknown;
}

}  // namespace idempotency
