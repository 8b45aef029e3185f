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
    enum class Kind {
        nil, status, error, integer, string,
        pair,       // of a string and an integer
        list,       // any other that begins with a string, which is `text`
    };

    Kind kind = Kind::nil;
    long long integer = 0;          // of a pair its second part

    // What an error begins with, as in "WRONGTYPE Operation against ...".  The
    // rest of it can repeat a command's arguments and is not told.
    char code[24] = "";

    // An error, up to kLongestText of it: it may be a redirection.  Of a list the
    // first 16 bytes of its first string.  It is the reader's, until its next
    // answer.
    std::string_view text;
};

class RedisReader {
public:
    // Takes the bytes of a string, whole, or the first part of what may be a
    // pair; they are gone when it returns.
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
    void *part(const redisReadTask *task, std::string_view bytes);
    void keep_text(std::string_view bytes);
    void *array(const redisReadTask *task, bool of_two, bool of_more);
    void *number(const redisReadTask *task, long long value);
    void *nil(const redisReadTask *task);

    Sink &sink_;
    redisReader *reader_ = nullptr;
    RedisAnswer answer_;
    char text_[kLongestText];
};

}  // namespace idempotency
