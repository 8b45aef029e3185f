// A query to a server about itself or other servers, over a connection of its own.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <string_view>

#include "redis/client/options.h"
#include "redis/client/socket.h"
#include "redis/protocol/query_codec.h"

namespace idempotency {

// One query at a time; the object may be used for any number of queries.
class RedisQuery final : private RedisSocket::Events, private RedisQueryCodec::Events {
public:
    class Owner {
    public:
        // Reads what it needs from a reply, and does nothing else.  Returns null, or
        // what is wrong with the reply, which ends the query.
        virtual const char *read(RedisQuery &query, const redisReply &reply) = 0;

        // The query has ended and its connection is closed.  `fault` is null where
        // the reply was read, else the reason, valid until this returns; `error` is
        // an errno or 0.  The owner may start the next query from within.
        virtual void ended(RedisQuery &query, const char *fault, ngx_err_t error) = 0;

    protected:
        ~Owner() = default;
    };

    // What it points to must be valid until the query has ended.
    struct Command {
        const std::string_view *words;
        std::size_t count;
        ngx_str_t user;
        ngx_str_t password;       // empty: no AUTH
        ngx_uint_t database = 0;  // 0: no SELECT
        bool subscribes = false;  // there is any number of replies, at any time; the command is
                                  // repeated from time to time, and a reply is expected
    };

    // All of them outlive this object; `server` until `start` gets another one.
    // `max_reply`: in bytes; a longer reply is a fault.
    RedisQuery(const RedisOptions &options, RedisServer &server, std::size_t max_reply,
               Owner &owner) noexcept;
    RedisQuery(const RedisQuery &) = delete;
    RedisQuery &operator=(const RedisQuery &) = delete;

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;

    // Sends a command to `server`.  A query that is not over yet is dropped, without
    // `ended`.  Calls `ended`, maybe before this returns; at the latest after a
    // `connect_timeout` for each address and a `timeout`, unless it subscribes.
    void start(RedisServer &server, const Command &command) noexcept;

    // Drops the query, without `ended`.
    void close() noexcept;

    bool busy() const { return busy_; }
    const RedisServer &server() const { return socket_.server(); }

private:
    // RedisSocket::Events
    void established() override;
    void received(std::string_view bytes) override;
    void received_all() override {}
    std::size_t output(iovec *out, std::size_t max) override;
    void wrote(std::size_t size) override;
    void failed(const char *why, ngx_err_t error) override;

    // RedisQueryCodec::Events
    void replied(const redisReply &reply) override;

    static void on_timeout(ngx_event_t *event);

    void end(const char *fault, ngx_err_t error) noexcept;

    const RedisOptions &options_;
    Owner &owner_;
    RedisSocket socket_;
    RedisQueryCodec codec_;
    Command command_{};
    bool busy_ = false;
    bool replied_ = false;
    bool awaits_reply_ = false;    // to a command that was repeated
    const char *fault_ = nullptr;  // what the owner has returned for a reply
    ngx_event_t timer_{};
};

}  // namespace idempotency
