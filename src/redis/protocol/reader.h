// Reads Redis' answers out of a stream of bytes.
//
// hiredis knows the protocol; its objects are not made: the few kinds of
// answers that this module's commands have go into one RedisAnswer.  The bytes
// of a large value pass hiredis by, which would keep all of them until the last
// one is there: they go to where they are wanted as they come, or nowhere.

#pragma once

#include <cstddef>
#include <string_view>

struct redisReader;
struct redisReadTask;
struct redisReplyObjectFunctions;

namespace idempotency {

struct RedisAnswer {
    enum class Kind {
        nil,
        status,
        error,
        integer,
        string,  // a value
        pair,    // of a value and an integer
        list,    // any other that begins with a string, which is `text`
    };

    Kind kind = Kind::nil;
    long long integer = 0;  // of a pair its second part

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
    // Who wants a value.
    class Sink {
    public:
        // One of `size` bytes comes.  Gives the memory that it is written to
        // until the answer is there, or null, and it is dropped.
        virtual char *value(std::size_t size) = 0;

    protected:
        ~Sink() = default;
    };

    static constexpr std::size_t kLongestText = 288;

    // From this size on a value passes hiredis by.
    static constexpr std::size_t kLargeValue = 16 * 1024;

    // An answer of which hiredis is given more is none of Redis to our commands.
    static constexpr std::size_t kLongestAnswer = 64 * 1024;

    enum class Result {
        answer,   // `answer` is filled in
        more,     // more bytes are needed
        garbage,  // not the protocol, or not an answer to one of our commands
    };

    explicit RedisReader(Sink &sink) : sink_(sink) {}
    ~RedisReader();
    RedisReader(const RedisReader &) = delete;
    RedisReader &operator=(const RedisReader &) = delete;

    // Begins a new stream.  False where there is no memory.
    bool restart() noexcept;

    // Takes an answer off the bytes that were read; with `more` it has taken
    // them all.
    Result next(std::string_view &bytes, RedisAnswer &answer) noexcept;

    // The memory that the sink gave is gone.
    void drop_value() noexcept { place_ = nullptr; }

private:
    struct Functions;

    // Of an answer: before it is known to have a large value, in that value, and
    // in what hiredis reads.
    enum class Part { head, value, plain };

    void begin_response() noexcept;
    void take_head(std::string_view &bytes) noexcept;
    void take_value(std::string_view &bytes) noexcept;
    void take_plain(std::string_view &bytes) noexcept;
    void pass_on(std::string_view bytes) noexcept;
    Result finish(RedisAnswer &answer) noexcept;

    void *string(const redisReadTask *task, std::string_view bytes);
    void *part(const redisReadTask *task, std::string_view bytes);
    void keep_text(std::string_view bytes);
    void copy_value(std::string_view bytes);
    void *array(const redisReadTask *task, bool of_two, bool of_more);
    void *number(const redisReadTask *task, long long value);
    void *nil(const redisReadTask *task);

    Sink &sink_;
    redisReader *reader_ = nullptr;
    RedisAnswer answer_;
    char text_[kLongestText];

    Part part_ = Part::head;
    bool refused_ = false;    // the stream is of no use, or hiredis has no memory
    bool passed_by_ = false;  // the value of this answer, which hiredis takes for empty
    char head_[32];
    std::size_t head_size_ = 0;
    std::size_t passed_on_ = 0;   // bytes of this answer
    std::size_t small_left_ = 0;  // of a small value
    std::size_t end_left_ = 0;    // of what ends a value
    std::size_t value_left_ = 0;  // of a large one
    char *place_ = nullptr;       // where its next byte goes, or null
};

}  // namespace idempotency
