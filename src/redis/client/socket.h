// A connection to one server, as a stream of bytes: tries all addresses of the
// server in turn, and uses TLS where the options say so.  It knows nothing of the
// protocol of Redis.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "redis/client/addresses.h"
#include "redis/client/connection_share.h"
#include "redis/client/options.h"
#include "redis/client/tls.h"

namespace idempotency {

class RedisSocket final : private RedisAddresses::Events {
public:
    // From within these functions the owner may connect again or close, except where
    // something else is said.
    class Events {
    public:
        // The connection is established; with TLS the server is verified.
        virtual void established() = 0;

        // Bytes that were read, valid until this returns.
        virtual void received(std::string_view bytes) = 0;

        // There are no more bytes to read for now.
        virtual void received_all() = 0;

        // Fills in up to `max` pieces of the bytes that are to be written; returns
        // how many.  The bytes must not change until `wrote` tells how many of them
        // have been written.  Must neither connect nor close.
        virtual std::size_t output(iovec *out, std::size_t max) = 0;
        virtual void wrote(std::size_t size) = 0;

        // The connection is lost, or none of the addresses could be connected to.
        // `why` and `error`, an errno or 0, are those of the last address.
        virtual void failed(const char *why, ngx_err_t error) = 0;

        // The server's name does not resolve to the address of this connection any
        // more.  May be called more than once.
        virtual void address_removed() {}

    protected:
        ~Events() = default;
    };

    // All three outlive this object.  No connection is opened yet.
    RedisSocket(const RedisOptions &options, RedisServer &server, RedisConnectionShare::Use use,
                Events &events) noexcept;

    RedisSocket(const RedisSocket &) = delete;
    RedisSocket &operator=(const RedisSocket &) = delete;

    // Before anything else, in a worker.  `log` outlives the socket.
    void open(ngx_log_t *log) noexcept;

    // Tries all addresses, beginning with the one that was used last.  Each has
    // `connect_timeout`, including the TLS handshake.  Calls `established` or
    // `failed`, maybe before this returns.  Closes a connection that exists.
    void connect() noexcept;

    // Closes a connection that was established but cannot be used, and tries the
    // addresses that are left in this round.  False where none is left.
    bool connect_next() noexcept;

    // The connection can be used: the next round tries all addresses again.
    void keep_address() noexcept { tried_ = 0; }

    // The next round begins with the address after this one.
    void skip_address() noexcept { skips_address_ = true; }

    // Another server from the next `connect` on, which outlives this object.
    void retarget(RedisServer &server) noexcept;

    // Closes the connection, without `failed`.
    void close() noexcept;

    // Closes an established connection with a reset, without `failed`: what the other end does
    // not have yet is dropped.
    void reset() noexcept;

    // How many bytes that were written the host at the other end does not have yet.
    std::size_t unacknowledged() const noexcept;

    bool connected() const { return state_ == State::connected; }

    // Within `failed`: the server is up, and TLS has failed.
    bool tls_failed() const { return tls_failed_; }

    // Writes at the end of this cycle of the event loop, so that all commands of the
    // cycle share a system call.
    void write_soon() noexcept;

    // Writes what there is to write, as much as the socket takes at once, and ignores
    // errors.  Only before `close`, in the state `connected`.
    void flush() noexcept;

    RedisServer &server() const { return *server_; }

private:
    enum class State { closed, resolving, connecting, tls_handshake, connected };

    // RedisAddresses::Events
    void resolved() override;

    static void on_read(ngx_event_t *event);
    static void on_write(ngx_event_t *event);
    static void on_timeout(ngx_event_t *event);
    static void on_handshake(ngx_connection_t *c);
    static void on_session(ngx_connection_t *c);

    void close_connection() noexcept;
    void start_round() noexcept;
    void go_to_next_address() noexcept;
    void try_addresses(const char *why, ngx_err_t error) noexcept;
    bool start_connecting(const ngx_addr_t &address) noexcept;
    bool finish_connecting() noexcept;
    void tcp_connected() noexcept;
    void set_user_timeout() noexcept;
    void start_handshake() noexcept;
    void finish_handshake() noexcept;
    void establish() noexcept;
    void fail(const char *why, ngx_err_t error) noexcept;
    void fail_with_tls_reason(const char *why, ngx_err_t error) noexcept;
    void fail_to_write(ngx_err_t error) noexcept;

    void read() noexcept;
    bool read_rest() noexcept;
    void write() noexcept;
    bool write_some() noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Events &events_;
    RedisAddresses addresses_;
    RedisTlsChannel tls_;

    State state_ = State::closed;
    std::size_t address_ = 0;  // index of the one in use
    std::size_t tried_ = 0;    // how many have failed in this round
    bool skips_address_ = false;
    std::uint32_t generation_ = 0;  // changes when the connection is closed
    bool tls_failed_ = false;
    RedisConnectionShare::Use use_;

    ngx_log_t socket_log_{};  // for nginx's own messages about the socket
    ngx_connection_t *connection_ = nullptr;
    ngx_event_t timer_{};  // while connecting
};

}  // namespace idempotency
