// Reads Redis' answers out of a stream of bytes.
//
// hiredis knows the protocol; its objects are not made: the few kinds of
// answers that this module's commands have go into one RedisAnswer, and the
// bytes of a value straight to where they are wanted.

#pragma once

#include <cstddef>
#include <string_view>

struct redisReader;
struct redisReadTask;
struct redisReplyObjectFunctions;

namespace idempotency {

struct RedisAnswer {
    enum class Kind { nil, status, error, integer, string, pair };

    Kind kind = Kind::nil;
    long long integer = 0;          // of a pair its second part

    // What an error begins with, as in "WRONGTYPE Operation against ...".  The
    // rest of it can repeat a command's arguments and is not told.
    char code[24] = "";

    // An error that may be a redirection, up to kLongestText of it.  It is the
    // reader's, until its next answer.
    std::string_view text;
};

class RedisReader {
public:
    // Takes the bytes of a string, whole, or the first part of a pair; they are
    // gone when it returns.
    class Sink {
    public:
        virtual void value(std::string_view bytes) = 0;

    protected:
        ~Sink() = default;
    };

    static constexpr std::size_t kLongestText = 288;

    enum class Result {
        answer,         // `answer` is filled in
        more,           // more bytes are needed
        garbage,        // not the protocol, or not an answer to one of our commands
    };

    explicit RedisReader(Sink &sink) : sink_(sink) {}
    ~RedisReader();
    RedisReader(const RedisReader &) = delete;
    RedisReader &operator=(const RedisReader &) = delete;

    // Begins a new stream.  False where there is no memory.
    bool restart() noexcept;

    bool feed(std::string_view bytes) noexcept;
    Result next(RedisAnswer &answer) noexcept;

private:
    struct Functions;

    void *string(const redisReadTask *task, std::string_view bytes);
    void keep_text(std::string_view bytes);
    void *pair(const redisReadTask *task, long long elements);
    void *number(const redisReadTask *task, long long value);
    void *nil(const redisReadTask *task);

    Sink &sink_;
    redisReader *reader_ = nullptr;
    RedisAnswer answer_;
    char text_[kLongestText];
};

}  // namespace idempotency
