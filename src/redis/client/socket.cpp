#include "redis/client/socket.h"

#include <algorithm>

namespace idempotency {

namespace {

constexpr std::size_t kReadSize = 16 * 1024;
constexpr std::size_t kPieces = 64;  // as many as nginx gives to one writev()

constexpr const char *kNotConnected = "it cannot be connected to";
constexpr const char *kClosed = "it closed the connection";
constexpr const char *kNotSecured = "it closed the connection in the TLS handshake";
constexpr const char *kSlowToSecure = "it does not finish the TLS handshake: does it speak TLS?";
constexpr const char *kNotWatched = "its socket cannot be watched";

ngx_err_t socket_error(const ngx_connection_t *c)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) == -1) {
        error = ngx_socket_errno;
    }

    return error;
}

std::size_t size_of(const iovec *pieces, std::size_t count)
{
    std::size_t size = 0;

    for (std::size_t i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }

    return size;
}

std::size_t size_of(const ngx_chain_t *link)
{
    std::size_t size = 0;

    for (/* void */; link != nullptr; link = link->next) {
        size += static_cast<std::size_t>(link->buf->last - link->buf->pos);
    }

    return size;
}

}  // namespace

RedisSocket::RedisSocket(const RedisOptions &options, RedisServer &server, Events &events) noexcept
    : options_(options), server_(&server), events_(events), names_(options, server, *this),
      tls_(options.tls_context)
{}

void RedisSocket::open(ngx_log_t *log) noexcept
{
    // Each failed attempt would be logged by nginx too; the owner writes a line
    // when the server goes down and when it is back.
    quiet_log_ = *log;
    quiet_log_.handler = nullptr;

    if ((log->log_level & NGX_LOG_DEBUG_EVENT) == 0) {
        quiet_log_.log_level = std::min<ngx_uint_t>(log->log_level, NGX_LOG_ALERT);
    }

    names_.open(log);

    if (tls_.is_used()) {
        tls_.listen(quiet_log_, log);
    }

    // a worker that quits does not wait for a connection that nobody waits for
    timer_.handler = on_timeout;
    timer_.data = this;
    timer_.log = log;
    timer_.cancelable = 1;
}

void RedisSocket::close() noexcept
{
    end_connection();
    names_.close();
}

void RedisSocket::end_connection() noexcept
{
    state_ = State::closed;
    life_++;

    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    if (connection_ != nullptr) {
        tls_.end(connection_);

        ngx_pool_t *pool = connection_->pool;

        ngx_close_connection(connection_);
        connection_ = nullptr;

        if (pool != nullptr) {
            ngx_destroy_pool(pool);
        }
    }
}

void RedisSocket::retarget(RedisServer &server) noexcept
{
    server_ = &server;
    address_ = 0;
    turns_away_ = false;
    names_.retarget(server);
    tls_.forget();
}

// Connecting

void RedisSocket::connect() noexcept
{
    end_connection();
    state_ = State::resolving;

    if (names_.look()) {
        begin_round();
    }
}

void RedisSocket::resolved()
{
    if (state_ == State::resolving) {
        begin_round();
    } else if (state_ == State::connected && !names_.has_still(address_)) {
        events_.moved();
    }
}

void RedisSocket::begin_round() noexcept
{
    tried_ = 0;
    address_ = names_.adopt(address_);

    if (names_.count() == 0) {
        state_ = State::closed;
        events_.broken(names_.why(), 0);
        return;
    }

    if (turns_away_) {
        turns_away_ = false;
        step();
    }

    try_addresses(kNotConnected, 0);
}

void RedisSocket::step() noexcept { address_ = (address_ + 1) % names_.count(); }

bool RedisSocket::connect_next() noexcept
{
    end_connection();
    step();

    if (++tried_ >= names_.count()) {
        return false;
    }

    try_addresses(kNotConnected, 0);
    return true;
}

// Until one is on its way.
void RedisSocket::try_addresses(const char *why, ngx_err_t error) noexcept
{
    while (tried_ < names_.count()) {
        state_ = State::connecting;
        refused_ = false;

        if (begin(names_[address_])) {
            return;
        }

        why = kNotConnected;
        error = ngx_socket_errno;
        tried_++;
        step();
    }

    state_ = State::closed;
    events_.broken(why, error);
}

bool RedisSocket::begin(const ngx_addr_t &address) noexcept
{
    ngx_peer_connection_t peer{};

    peer.sockaddr = address.sockaddr;
    peer.socklen = address.socklen;
    peer.name = const_cast<ngx_str_t *>(&address.name);
    peer.get = ngx_event_get_peer;
    peer.log = &quiet_log_;
    peer.log_error = NGX_ERROR_ERR;
    peer.so_keepalive = 1;

    ngx_int_t rc = ngx_event_connect_peer(&peer);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return false;
    }

    // Not `idle`: a worker that quits keeps the connection for the results of
    // the requests that it still has.  The store is closed before nginx looks
    // for sockets that were left open.
    connection_ = peer.connection;
    connection_->data = this;
    connection_->read->handler = on_read;
    connection_->write->handler = on_write;

    ngx_add_timer(&timer_, options_.connect_timeout);

    if (rc == NGX_OK) {
        opened();
    }

    return true;
}

// False where the attempt has failed.
bool RedisSocket::finish_connect() noexcept
{
    ngx_err_t error = socket_error(connection_);

    if (error != 0) {
        fail(kNotConnected, error);
        return false;
    }

    std::uint32_t life = life_;

    opened();
    return life == life_ && state_ == State::connected;
}

void RedisSocket::opened() noexcept
{
    (void) ngx_tcp_nodelay(connection_);

    if (tls_.is_used()) {
        secure();
    } else {
        establish();
    }
}

void RedisSocket::secure() noexcept
{
    state_ = State::securing;

    if (tls_.begin(connection_, server_->host, on_secured, on_session) != NGX_AGAIN) {
        secured();
    }
}

// The handshake has ended.
void RedisSocket::secured() noexcept
{
    if (!tls_.has_succeeded(connection_) || !tls_.verify(connection_, server_->host)) {
        refused_ = true;
        fail(tls_.why(kNotSecured), 0);
        return;
    }

    connection_->read->handler = on_read;
    connection_->write->handler = on_write;

    // what came along with the end of the handshake
    ngx_post_event(connection_->read, &ngx_posted_events);
    establish();
}

void RedisSocket::establish() noexcept
{
    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    state_ = State::connected;
    events_.established();
}

// The connection, or the attempt, has come to its end.
void RedisSocket::fail(const char *why, ngx_err_t error) noexcept
{
    bool was_connected = state_ == State::connected;

    if (state_ == State::securing) {
        tls_.forget();
    }

    end_connection();

    if (was_connected) {
        events_.broken(why, error);
        return;
    }

    tried_++;
    step();
    try_addresses(why, error);
}

// What TLS says of it tells more.
void RedisSocket::fail_by_peer(const char *why, ngx_err_t error) noexcept
{
    const char *said = tls_.why(nullptr);

    refused_ = said != nullptr;
    fail(refused_ ? said : why, refused_ ? 0 : error);
}

void RedisSocket::fail_to_write(ngx_err_t error) noexcept
{
    u_char bytes[256];

    // the alert by which a server refuses a client's certificate comes late
    if (tls_.is_used()) {
        (void) connection_->recv(connection_, bytes, sizeof(bytes));
    }

    fail_by_peer("it cannot be written to", error);
}

void RedisSocket::on_timeout(ngx_event_t *event)
{
    auto self = static_cast<RedisSocket *>(event->data);

    self->refused_ = self->state_ == State::securing;
    self->fail(self->refused_ ? kSlowToSecure : kNotConnected, NGX_ETIMEDOUT);
}

void RedisSocket::on_secured(ngx_connection_t *c)
{
    static_cast<RedisSocket *>(c->data)->secured();
}

void RedisSocket::on_session(ngx_connection_t *c)
{
    static_cast<RedisSocket *>(c->data)->tls_.keep(c);
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

    if (state_ == State::connecting && !finish_connect()) {
        return;
    }

    std::uint32_t life = life_;

    // the event may be edge-triggered: until there is no more
    for (;;) {
        ssize_t n = connection_->recv(connection_, bytes, sizeof(bytes));

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == 0 || n == NGX_ERROR) {
            fail_by_peer(kClosed, n == 0 ? 0 : ngx_socket_errno);
            return;
        }

        events_.received({reinterpret_cast<char *>(bytes), static_cast<std::size_t>(n)});

        if (life != life_) {
            return;
        }
    }

    if (ngx_handle_read_event(connection_->read, 0) != NGX_OK) {
        fail(kNotWatched, 0);
        return;
    }

    events_.received_all();

    if (life == life_) {
        write_soon();
    }
}

void RedisSocket::write() noexcept
{
    if (state_ == State::connecting && !finish_connect()) {
        return;
    }

    if (!write_some()) {
        fail_to_write(ngx_socket_errno);
        return;
    }

    if (ngx_handle_write_event(connection_->write, 0) != NGX_OK) {
        fail(kNotWatched, 0);
    }
}

// Writes as much as the socket takes.  False where it is broken.
bool RedisSocket::write_some() noexcept
{
    iovec pieces[kPieces];
    ngx_buf_t buffers[kPieces];
    ngx_chain_t links[kPieces];

    for (;;) {
        std::size_t n = events_.output(pieces, kPieces);

        if (n == 0) {
            break;
        }

        ngx_memzero(buffers, n * sizeof(ngx_buf_t));

        for (std::size_t i = 0; i < n; i++) {
            buffers[i].pos = static_cast<u_char *>(pieces[i].iov_base);
            buffers[i].last = buffers[i].pos + pieces[i].iov_len;
            buffers[i].memory = 1;
            links[i].buf = &buffers[i];
            links[i].next = i + 1 < n ? &links[i + 1] : nullptr;
        }

        ngx_chain_t *rest = connection_->send_chain(connection_, links, 0);

        if (rest == NGX_CHAIN_ERROR) {
            return false;
        }

        events_.wrote(size_of(pieces, n) - size_of(rest));

        if (rest != nullptr) {
            return true;
        }
    }

    // what OpenSSL was not given yet, since more might have made one record of it
    return (connection_->buffered & NGX_SSL_BUFFERED) == 0
           || connection_->send_chain(connection_, nullptr, 0) != NGX_CHAIN_ERROR;
}

void RedisSocket::write_soon() noexcept
{
    if (state_ == State::connected && connection_->write->ready) {
        ngx_post_event(connection_->write, &ngx_posted_events);
    }
}

}  // namespace idempotency
