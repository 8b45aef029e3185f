// Reads the replies of Redis out of a stream of bytes.
//
// hiredis parses the protocol, but makes no objects: the few kinds of replies that
// this module's commands have are put into one ServerReply.  The bytes of a large
// value do not go through hiredis, which would buffer the whole value: they are
// copied to where they are wanted as they arrive, or are dropped.

#pragma once

#include <cstddef>
#include <string_view>

struct redisReader;
struct redisReadTask;
struct redisReplyObjectFunctions;

namespace idempotency {

struct ServerReply {
    enum class Kind {
        nil,
        status,
        error,
        integer,
        string,  // a value
        pair,    // an array of a value and an integer
        list,    // any other array that begins with a string, which is `text`
    };

    Kind kind = Kind::nil;
    long long integer = 0;  // of a pair: its second element

    // The code that an error begins with, as in "WRONGTYPE Operation against ...".
    // The rest can repeat a command's arguments, and must not be logged.
    char code[24] = "";

    // Of an error: its first kMaxText bytes, which may be a redirection.  Of a list
    // or a pair: the first 16 bytes of its first string.  The reader owns the
    // bytes, until its next reply.
    std::string_view text;
};

class RedisReader {
public:
    // Takes the values.
    class Sink {
    public:
        // A value of `size` bytes begins.  Returns the memory to write it to, which
        // must last until the reply is complete or `drop_value`; or null, and the
        // value is dropped.
        virtual char *allocate_value(std::size_t size) = 0;

    protected:
        ~Sink() = default;
    };

    static constexpr std::size_t kMaxText = 288;

    // In bytes: from this size on a value does not go through hiredis.
    static constexpr std::size_t kLargeValue = 16 * 1024;

    // In bytes: a reply of which hiredis would get more is not one to our commands.
    static constexpr std::size_t kMaxReply = 64 * 1024;

    enum class Result {
        reply,    // `reply` is filled in
        more,     // more bytes are needed
        garbage,  // not the protocol, or not a reply to one of our commands
    };

    explicit RedisReader(Sink &sink) : sink_(sink) {}
    ~RedisReader();
    RedisReader(const RedisReader &) = delete;
    RedisReader &operator=(const RedisReader &) = delete;

    // Begins a new stream.  False where there is no memory.
    bool restart() noexcept;

    // Reads one reply and removes its bytes from the front of `bytes`; with `more`
    // it has removed all bytes.
    Result next(std::string_view &bytes, ServerReply &reply) noexcept;

    // The memory that the sink gave must not be written any more.
    void drop_value() noexcept { value_out_ = nullptr; }

private:
    struct Functions;

    // Which part of a reply comes next: the head, which tells whether there is a
    // large value; a large value; or what hiredis reads.
    enum class Part { head, value, plain };

    void begin_reply() noexcept;
    void read_head(std::string_view &bytes) noexcept;
    void read_value(std::string_view &bytes) noexcept;
    void read_plain(std::string_view &bytes) noexcept;
    void feed(std::string_view bytes) noexcept;
    Result finish(ServerReply &reply) noexcept;

    void *on_string(const redisReadTask *task, std::string_view bytes);
    void *on_element(const redisReadTask *task, std::string_view bytes);
    void keep_text(std::string_view bytes);
    void copy_value(std::string_view bytes);
    void *on_array(const redisReadTask *task, bool of_two, bool of_more);
    void *on_integer(const redisReadTask *task, long long value);
    void *on_nil(const redisReadTask *task);

    Sink &sink_;
    redisReader *reader_ = nullptr;
    ServerReply reply_;
    char text_[kMaxText];

    Part part_ = Part::head;
    bool failed_ = false;           // the stream cannot be read, or hiredis has no memory
    bool has_large_value_ = false;  // hiredis gets an empty value in its place
    char head_[32];
    std::size_t head_size_ = 0;
    std::size_t fed_ = 0;         // bytes of this reply that hiredis got
    std::size_t small_left_ = 0;  // bytes still to come of a small value
    std::size_t end_left_ = 0;    // bytes still to come of the line end after a value
    std::size_t value_left_ = 0;  // bytes still to come of a large value
    char *value_out_ = nullptr;   // where the next byte of it is written, or null
};

}  // namespace idempotency
