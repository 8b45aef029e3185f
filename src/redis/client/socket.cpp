#include "redis/client/socket.h"

#include <algorithm>

#include "nginx/timer.h"
#include "redis/client/output_chain.h"

namespace idempotency {

namespace {

constexpr std::size_t kReadSize = 16 * 1024;

constexpr const char *kConnectFailed = "connecting to it failed";
constexpr const char *kNoShare =
    "this worker has too many connections to Redis: raise \"worker_connections\"";
constexpr const char *kClosed = "it closed the connection";
constexpr const char *kClosedInHandshake = "it closed the connection in the TLS handshake";
constexpr const char *kHandshakeTimeout =
    "it does not finish the TLS handshake: does it speak TLS?";
constexpr const char *kNoEvents = "events for its socket cannot be added";

ngx_err_t socket_error(const ngx_connection_t *c)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) == -1) {
        error = ngx_socket_errno;
    }

    return error;
}

}  // namespace

RedisSocket::RedisSocket(const RedisOptions &options, RedisServer &server,
                         RedisConnectionShare::Use use, Events &events) noexcept
    : options_(options), server_(&server), events_(events), addresses_(options, server, *this),
      tls_(options.tls_context), use_(use)
{}

void RedisSocket::open(ngx_log_t *log) noexcept
{
    // nginx would log each failed attempt, too; the connection logs one line when the
    // server is unavailable and one when it is available again
    socket_log_ = *log;
    socket_log_.handler = nullptr;

    if ((log->log_level & NGX_LOG_DEBUG_EVENT) == 0) {
        socket_log_.log_level = std::min<ngx_uint_t>(log->log_level, NGX_LOG_ALERT);
    }

    addresses_.open(log);

    if (tls_.is_used()) {
        tls_.capture_log(socket_log_, log);
    }

    // a worker that quits waits for calls, not for a connection
    prepare_timer(timer_, on_timeout, this, log);
}

void RedisSocket::close() noexcept
{
    close_connection();
    addresses_.close();
}

void RedisSocket::close_connection() noexcept
{
    state_ = State::closed;
    generation_++;

    cancel_timer(timer_);

    if (connection_ != nullptr) {
        tls_.shut_down(connection_);

        ngx_pool_t *pool = connection_->pool;

        ngx_close_connection(connection_);
        connection_ = nullptr;
        options_.share->give_back();

        if (pool != nullptr) {
            ngx_destroy_pool(pool);
        }
    }
}

void RedisSocket::retarget(RedisServer &server) noexcept
{
    server_ = &server;
    address_ = 0;
    skips_address_ = false;
    addresses_.retarget(server);
    tls_.drop_session();
}

// Connecting

void RedisSocket::connect() noexcept
{
    close_connection();
    state_ = State::resolving;

    if (addresses_.resolve()) {
        start_round();
    }
}

void RedisSocket::resolved()
{
    if (state_ == State::resolving) {
        start_round();
    } else if (state_ == State::connected && !addresses_.is_still_valid(address_)) {
        events_.address_removed();
    }
}

void RedisSocket::start_round() noexcept
{
    tried_ = 0;
    address_ = addresses_.update(address_);

    if (addresses_.count() == 0) {
        state_ = State::closed;
        events_.failed(addresses_.reason(), 0);
        return;
    }

    if (skips_address_) {
        skips_address_ = false;
        go_to_next_address();
    }

    try_addresses(kConnectFailed, 0);
}

void RedisSocket::go_to_next_address() noexcept { address_ = (address_ + 1) % addresses_.count(); }

bool RedisSocket::connect_next() noexcept
{
    close_connection();
    go_to_next_address();

    if (++tried_ >= addresses_.count()) {
        return false;
    }

    try_addresses(kConnectFailed, 0);
    return true;
}

// Until the system has begun to connect to one of them.
void RedisSocket::try_addresses(const char *why, ngx_err_t error) noexcept
{
    if (!options_.share->take(use_)) {
        state_ = State::closed;
        events_.failed(kNoShare, 0);
        return;
    }

    while (tried_ < addresses_.count()) {
        state_ = State::connecting;
        tls_failed_ = false;

        if (start_connecting(addresses_[address_])) {
            return;
        }

        why = kConnectFailed;
        error = ngx_socket_errno;
        tried_++;
        go_to_next_address();
    }

    options_.share->give_back();
    state_ = State::closed;
    events_.failed(why, error);
}

bool RedisSocket::start_connecting(const ngx_addr_t &address) noexcept
{
    ngx_peer_connection_t peer{};

    peer.sockaddr = address.sockaddr;
    peer.socklen = address.socklen;
    peer.name = const_cast<ngx_str_t *>(&address.name);
    peer.get = ngx_event_get_peer;
    peer.log = &socket_log_;
    peer.log_error = NGX_ERROR_ERR;
    peer.so_keepalive = 1;

    ngx_int_t rc = ngx_event_connect_peer(&peer);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return false;
    }

    // Not `idle`: a worker that quits needs the connection for the results of its
    // last requests.  The store is closed before nginx looks for open sockets.
    connection_ = peer.connection;
    connection_->data = this;
    connection_->read->handler = on_read;
    connection_->write->handler = on_write;

    ngx_add_timer(&timer_, options_.connect_timeout);

    if (rc == NGX_OK) {
        tcp_connected();
    }

    return true;
}

// False where connecting has failed.
bool RedisSocket::finish_connecting() noexcept
{
    ngx_err_t error = socket_error(connection_);

    if (error != 0) {
        fail(kConnectFailed, error);
        return false;
    }

    std::uint32_t generation = generation_;

    tcp_connected();
    return generation == generation_ && state_ == State::connected;
}

void RedisSocket::tcp_connected() noexcept
{
    set_user_timeout();
    (void) ngx_tcp_nodelay(connection_);

    if (tls_.is_used()) {
        start_handshake();
    } else {
        establish();
    }
}

void RedisSocket::start_handshake() noexcept
{
    state_ = State::tls_handshake;

    if (tls_.start_handshake(connection_, server_->host, on_handshake, on_session) != NGX_AGAIN) {
        finish_handshake();
    }
}

// The handshake has ended, with or without success.
void RedisSocket::finish_handshake() noexcept
{
    if (!tls_.has_succeeded(connection_) || !tls_.verify(connection_, server_->host)) {
        tls_failed_ = true;
        fail(tls_.reason(kClosedInHandshake), 0);
        return;
    }

    connection_->read->handler = on_read;
    connection_->write->handler = on_write;

    // bytes may have come together with the end of the handshake
    ngx_post_event(connection_->read, &ngx_posted_events);
    establish();
}

void RedisSocket::establish() noexcept
{
    cancel_timer(timer_);

    state_ = State::connected;
    events_.established();
}

// The connection is lost, or connecting to this address has failed.
void RedisSocket::fail(const char *why, ngx_err_t error) noexcept
{
    bool was_connected = state_ == State::connected;

    if (state_ == State::tls_handshake) {
        tls_.drop_session();
    }

    close_connection();

    if (was_connected) {
        events_.failed(why, error);
        return;
    }

    tried_++;
    go_to_next_address();
    try_addresses(why, error);
}

// With the reason that TLS has, if there is one, instead of `why`.
void RedisSocket::fail_with_tls_reason(const char *why, ngx_err_t error) noexcept
{
    const char *reason = tls_.reason(nullptr);

    tls_failed_ = reason != nullptr;
    fail(tls_failed_ ? reason : why, tls_failed_ ? 0 : error);
}

// The server may have sent the reason before it closed the connection: an error reply;
// or the alert with which it refuses the client's certificate, which comes only after
// the handshake.
void RedisSocket::fail_to_write(ngx_err_t error) noexcept
{
    if (read_rest()) {
        fail_with_tls_reason("writing to it failed", error);
    }
}

// Reads what has arrived on a broken connection.  False where the owner has closed the
// connection meanwhile.
bool RedisSocket::read_rest() noexcept
{
    u_char bytes[kReadSize];
    std::uint32_t generation = generation_;

    for (;;) {
        // the last read has found no more bytes: nginx would not try again before the
        // next event
        connection_->read->available = -1;

        ssize_t n = connection_->recv(connection_, bytes, sizeof(bytes));

        if (n <= 0) {
            return true;
        }

        events_.received({reinterpret_cast<char *>(bytes), static_cast<std::size_t>(n)});

        if (generation != generation_) {
            return false;
        }
    }
}

void RedisSocket::on_timeout(ngx_event_t *event)
{
    auto self = static_cast<RedisSocket *>(event->data);

    self->tls_failed_ = self->state_ == State::tls_handshake;
    self->fail(self->tls_failed_ ? kHandshakeTimeout : kConnectFailed, NGX_ETIMEDOUT);
}

void RedisSocket::on_handshake(ngx_connection_t *c)
{
    static_cast<RedisSocket *>(c->data)->finish_handshake();
}

void RedisSocket::on_session(ngx_connection_t *c)
{
    static_cast<RedisSocket *>(c->data)->tls_.save_session(c);
}

// Reading and writing

void RedisSocket::on_read(ngx_event_t *event)
{
    auto c = static_cast<ngx_connection_t *>(event->data);

    static_cast<RedisSocket *>(c->data)->read();
}

void RedisSocket::on_write(ngx_event_t *event)
{
    auto c = static_cast<ngx_connection_t *>(event->data);

    static_cast<RedisSocket *>(c->data)->write();
}

void RedisSocket::read() noexcept
{
    u_char bytes[kReadSize];

    if (state_ == State::connecting && !finish_connecting()) {
        return;
    }

    std::uint32_t generation = generation_;

    // the event may be edge-triggered: read until there are no more bytes
    for (;;) {
        ssize_t n = connection_->recv(connection_, bytes, sizeof(bytes));

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == 0 || n == NGX_ERROR) {
            fail_with_tls_reason(kClosed, n == 0 ? 0 : ngx_socket_errno);
            return;
        }

        events_.received({reinterpret_cast<char *>(bytes), static_cast<std::size_t>(n)});

        if (generation != generation_) {
            return;
        }
    }

    if (ngx_handle_read_event(connection_->read, 0) != NGX_OK) {
        fail(kNoEvents, 0);
        return;
    }

    events_.received_all();

    if (generation == generation_) {
        write_soon();
    }
}

void RedisSocket::write() noexcept
{
    if (state_ == State::connecting && !finish_connecting()) {
        return;
    }

    if (!write_some()) {
        fail_to_write(ngx_socket_errno);
        return;
    }

    if (ngx_handle_write_event(connection_->write, 0) != NGX_OK) {
        fail(kNoEvents, 0);
    }
}

// Writes as much as the socket takes.  False where it is broken.
bool RedisSocket::write_some() noexcept
{
    iovec pieces[RedisOutputChain::kMaxPieces];

    for (;;) {
        std::size_t n = events_.output(pieces, RedisOutputChain::kMaxPieces);

        if (n == 0) {
            break;
        }

        RedisOutputChain chain(pieces, n);
        ngx_chain_t *rest = connection_->send_chain(connection_, chain.first(), 0);

        if (rest == NGX_CHAIN_ERROR) {
            return false;
        }

        events_.wrote(chain.sent(rest));

        if (rest != nullptr) {
            return true;
        }
    }

    // flush the bytes that nginx keeps in order to fill a TLS record
    return (connection_->buffered & NGX_SSL_BUFFERED) == 0
           || connection_->send_chain(connection_, nullptr, 0) != NGX_CHAIN_ERROR;
}

void RedisSocket::flush() noexcept
{
    u_char bytes[kReadSize];

    (void) write_some();

    // bytes that were not read would make the system reset the connection, and drop
    // what it has not sent yet
    while (connection_->recv(connection_, bytes, sizeof(bytes)) > 0) {
    }
}

void RedisSocket::write_soon() noexcept
{
    if (state_ == State::connected && connection_->write->ready) {
        ngx_post_event(connection_->write, &ngx_posted_events);
    }
}

}  // namespace idempotency
