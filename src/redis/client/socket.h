// A connection to one server, as bytes: through all of the server's addresses
// in turn, with TLS where it is asked for.  It knows nothing of Redis.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "redis/client/names.h"
#include "redis/client/options.h"
#include "redis/client/tls.h"

namespace idempotency {

class RedisSocket final : private RedisNames::Events {
public:
    // What the owner is told.  From within each of these it may connect anew or
    // close, except where something else is said.
    class Events {
    public:
        // There is a connection, and with TLS it is one to the right server.
        virtual void established() = 0;

        // Bytes that came; they are gone when this returns.
        virtual void received(std::string_view bytes) = 0;

        // Nothing more has come for now.
        virtual void received_all() = 0;

        // The next bytes to write, which stay where they are until `wrote` says
        // how many of them have been taken.  Neither connects nor closes.
        virtual std::size_t output(iovec *out, std::size_t most) = 0;
        virtual void wrote(std::size_t size) = 0;

        // There is no connection any more, or none of the addresses gave one,
        // for the last of them because of `why` and, if not 0, `error`.
        virtual void broken(const char *why, ngx_err_t error) = 0;

        // The server's name does not have the address of this connection any
        // more.  It may be told again.
        virtual void moved() {}

    protected:
        ~Events() = default;
    };

    // All three outlive this object.  Nothing is opened yet.
    RedisSocket(const RedisOptions &options, RedisServer &server, Events &events) noexcept;

    RedisSocket(const RedisSocket &) = delete;
    RedisSocket &operator=(const RedisSocket &) = delete;

    // Before anything else, in a worker.  `log` outlives the socket.
    void open(ngx_log_t *log) noexcept;

    // Goes through all addresses, from the one that was the last in use.  Each
    // gets `connect_timeout`, for TLS too.  It ends by `established` or `broken`, maybe from
    // within.  A connection that is there is closed.
    void connect() noexcept;

    // The connection is of no use although it was made: on to the next address
    // of this round.  False where there is none left: it is only closed.
    bool connect_next() noexcept;

    // The connection is the right one: the next round has all addresses again.
    void settle() noexcept { tried_ = 0; }

    // The next round begins with another address.
    void turn_away() noexcept { turns_away_ = true; }

    // Another server, from the next `connect` on, which outlives this object.
    void retarget(RedisServer &server) noexcept;

    // Tells nobody.
    void close() noexcept;

    bool connected() const { return state_ == State::connected; }

    // At `broken`: the server is there, but there is no TLS with it.
    bool refused() const { return refused_; }

    // At the end of this turn of the event loop, so that all that is said in
    // one turn shares a system call.
    void write_soon() noexcept;

    RedisServer &server() const { return *server_; }

private:
    enum class State { closed, resolving, connecting, securing, connected };

    // RedisNames::Events
    void resolved() override;

    static void on_read(ngx_event_t *event);
    static void on_write(ngx_event_t *event);
    static void on_timeout(ngx_event_t *event);
    static void on_secured(ngx_connection_t *c);
    static void on_session(ngx_connection_t *c);

    void end_connection() noexcept;
    void begin_round() noexcept;
    void step() noexcept;
    void try_addresses(const char *why, ngx_err_t error) noexcept;
    bool begin(const ngx_addr_t &address) noexcept;
    bool finish_connect() noexcept;
    void opened() noexcept;
    void secure() noexcept;
    void secured() noexcept;
    void establish() noexcept;
    void fail(const char *why, ngx_err_t error) noexcept;
    void fail_by_peer(const char *why, ngx_err_t error) noexcept;
    void fail_to_write(ngx_err_t error) noexcept;

    void read() noexcept;
    void write() noexcept;
    bool write_some() noexcept;

    const RedisOptions &options_;
    RedisServer *server_;
    Events &events_;
    RedisNames names_;
    RedisTlsChannel tls_;

    State state_ = State::closed;
    std::size_t address_ = 0;  // the one in use
    std::size_t tried_ = 0;    // how many have failed in this round
    bool turns_away_ = false;
    std::uint32_t life_ = 0;  // counts connections: is it still this one?
    bool refused_ = false;

    ngx_log_t quiet_log_{};  // for nginx's own messages about the socket
    ngx_connection_t *connection_ = nullptr;
    ngx_event_t timer_{};  // while connecting
};

}  // namespace idempotency
