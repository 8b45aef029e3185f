// Queries to a server about itself and about other servers: CLUSTER SLOTS, ROLE,
// SENTINEL, SUBSCRIBE.
//
// The codec does no I/O: its owner reads and writes the bytes.  Commands with keys
// go through RedisPipeline instead.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "redis/protocol/output.h"

struct redisReader;
struct redisReply;

namespace idempotency {

class RedisQueryCodec {
public:
    class Events {
    public:
        // The next reply or message, never an error, valid until this returns.
        // From within, the owner may call `send`, and nothing else.
        virtual void replied(const redisReply &reply) = 0;

    protected:
        ~Events() = default;
    };

    // `max_reply`: in bytes; a longer reply is a fault.
    RedisQueryCodec(std::size_t max_reply, Events &events) noexcept
        : max_reply_(max_reply), events_(events)
    {}
    ~RedisQueryCodec();
    RedisQueryCodec(const RedisQueryCodec &) = delete;
    RedisQueryCodec &operator=(const RedisQueryCodec &) = delete;

    // A new connection.  With a password AUTH is sent first, and SELECT unless `database` is 0;
    // their replies are no events.  `user` may be empty.
    void open(std::string_view user, std::string_view password,
              std::uint32_t database = 0) noexcept;

    void close() noexcept;

    // Sends a command; its words are copied.  Replies come in the order of the
    // commands.
    void send(const std::string_view *words, std::size_t count) noexcept;

    // Up to `max` pieces of the bytes that are to be written; returns how many.
    std::size_t output(iovec *out, std::size_t max) const noexcept
    {
        return fault_ == nullptr ? output_.pieces(out, max) : 0;
    }
    void wrote(std::size_t size) noexcept { output_.wrote(size); }

    // Bytes that were read.
    void input(std::string_view bytes) noexcept;

    // Why the connection cannot be used any more and is to be closed, or null.  The
    // text is valid until `open` or `close`.
    const char *fault() const { return fault_; }

private:
    void handle(const redisReply &reply) noexcept;
    void handle_error(const redisReply &error) noexcept;
    void free_reader() noexcept;

    std::size_t max_reply_;
    Events &events_;
    RedisOutput output_;
    redisReader *reader_ = nullptr;
    std::size_t elements_left_ = 0;     // that the reply may still have
    std::size_t read_ = 0;              // bytes of the reply that is not complete yet
    bool awaits_auth_reply_ = false;    // the next reply is the one to AUTH
    bool awaits_select_reply_ = false;  // the next one, or the one after it, is that to SELECT
    const char *fault_ = nullptr;
    char error_text_[96] = "";  // what `fault_` points to where Redis has replied an error
};

}  // namespace idempotency
