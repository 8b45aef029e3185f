// A question to a server about itself or others, over a connection of its own.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <string_view>

#include "redis/client/options.h"
#include "redis/client/socket.h"
#include "redis/protocol/dialogue.h"

namespace idempotency {

// One question at a time; the object serves for many, one after another.
class RedisInquiry final : private RedisSocket::Events, private RedisDialogue::Events {
public:
    class Owner {
    public:
        // Takes what it needs from an answer: null, or why that is of no use,
        // which ends the question.  It does nothing else.
        virtual const char *read(RedisInquiry &inquiry, const redisReply &reply) = 0;

        // The question is over and its connection closed.  `fault` is null
        // where the answer was read; it is gone afterwards.  The owner may ask
        // anew from within.
        virtual void ended(RedisInquiry &inquiry, const char *fault, ngx_err_t error) = 0;

    protected:
        ~Owner() = default;
    };

    struct Question {
        const std::string_view *words;  // all of it lasts until it is over
        std::size_t count;
        ngx_str_t user;
        ngx_str_t password;       // empty: no AUTH
        bool subscribes = false;  // answers go on coming
    };

    // All outlive this object, `server` until another is asked.  `most`: of how
    // many bytes an answer may be.
    RedisInquiry(const RedisOptions &options, RedisServer &server, std::size_t most,
                 Owner &owner) noexcept;
    RedisInquiry(const RedisInquiry &) = delete;
    RedisInquiry &operator=(const RedisInquiry &) = delete;

    // Before anything else, in a worker.  `log` outlives the object.
    void open(ngx_log_t *log) noexcept;

    // Ends in `ended`, maybe from within this, after some `connect_timeout` and
    // `timeout` at the latest unless it subscribes.
    void ask(RedisServer &server, const Question &question) noexcept;

    // Tells nobody.
    void close() noexcept;

    bool busy() const { return busy_; }
    const RedisServer &server() const { return socket_.server(); }

private:
    // RedisSocket::Events
    void established() override;
    void received(std::string_view bytes) override;
    void received_all() override {}
    std::size_t output(iovec *out, std::size_t most) override;
    void wrote(std::size_t size) override;
    void broken(const char *why, ngx_err_t error) override;

    // RedisDialogue::Events
    void answered(const redisReply &reply) override;

    static void on_timeout(ngx_event_t *event);

    void end(const char *fault, ngx_err_t error) noexcept;

    const RedisOptions &options_;
    Owner &owner_;
    RedisSocket socket_;
    RedisDialogue dialogue_;
    Question question_{};
    bool busy_ = false;
    bool answered_ = false;
    const char *fault_ = nullptr;  // of an answer, as the owner said
    ngx_event_t timer_{};
};

}  // namespace idempotency
