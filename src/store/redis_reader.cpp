#include "store/redis_reader.h"

#include <algorithm>
#include <cstring>

#include <hiredis/read.h>

namespace idempotency {

namespace {

constexpr std::size_t kLongestWord = 16;

// That an ACL forbids what a script calls has no code of its own: Redis 7.0 says the one, later ones
// and Valkey the other.
bool is_forbidden_in_script(std::string_view error)
{
    return error.find("ACL failure in script") != error.npos
           || error.find("The user executing the script can't") != error.npos;
}

void copy_code(std::string_view error, char (&out)[sizeof(RedisAnswer::code)])
{
    std::size_t n = 0;

    if (is_forbidden_in_script(error)) {
        std::memcpy(out, "NOPERM", sizeof("NOPERM"));
        return;
    }

    while (n < error.size() && n + 1 < sizeof(out)
           && ((error[n] >= 'A' && error[n] <= 'Z') || error[n] == '_'))
    {
        out[n] = error[n];
        n++;
    }

    bool is_code = n > 0 && (n == error.size() || error[n] == ' ');

    if (is_code) {
        out[n] = '\0';
    } else {
        std::memcpy(out, "ERR", sizeof("ERR"));
    }
}

}  // namespace

// What hiredis calls to make its objects.  The type of a length differs between
// its versions: of each overload the one that fits is taken.
struct RedisReader::Functions {
    static RedisReader *of(const redisReadTask *task)
    {
        return static_cast<RedisReader *>(task->privdata);
    }

    static void *string(const redisReadTask *task, char *bytes, std::size_t size)
    {
        return of(task)->string(task, {bytes, size});
    }

    static void *array(const redisReadTask *task, int elements)
    {
        return of(task)->array(task, elements == 2, elements > 2);
    }

    static void *array(const redisReadTask *task, std::size_t elements)
    {
        return of(task)->array(task, elements == 2, elements > 2);
    }

    static void *integer(const redisReadTask *task, long long value)
    {
        return of(task)->number(task, value);
    }

    static void *nil(const redisReadTask *task) { return of(task)->nil(task); }

    // There are no objects.
    static void free(void *) {}

    static constexpr redisReplyObjectFunctions table()
    {
        redisReplyObjectFunctions functions{};

        functions.createString = string;
        functions.createArray = array;
        functions.createInteger = integer;
        functions.createNil = nil;
        functions.freeObject = free;
        return functions;
    }
};

RedisReader::~RedisReader()
{
    if (reader_ != nullptr) {
        redisReaderFree(reader_);
    }
}

bool RedisReader::restart() noexcept
{
    static constexpr redisReplyObjectFunctions functions = Functions::table();

    if (reader_ != nullptr) {
        redisReaderFree(reader_);
    }

    // hiredis only reads it
    reader_ = redisReaderCreateWithFunctions(const_cast<redisReplyObjectFunctions *>(&functions));

    if (reader_ != nullptr) {
        reader_->privdata = this;
    }

    return reader_ != nullptr;
}

bool RedisReader::feed(std::string_view bytes) noexcept
{
    return reader_ != nullptr && redisReaderFeed(reader_, bytes.data(), bytes.size()) == REDIS_OK;
}

RedisReader::Result RedisReader::next(RedisAnswer &answer) noexcept
{
    void *done = nullptr;

    if (reader_ == nullptr || redisReaderGetReply(reader_, &done) != REDIS_OK) {
        return Result::garbage;
    }

    if (done == nullptr) {
        return Result::more;
    }

    // hiredis makes its other objects itself, of which we ask for none
    if (done != this) {
        return Result::garbage;
    }

    answer = answer_;
    return Result::answer;
}

// Each returns what is not null, or null to refuse, which ends the stream.

// A part of an array.
void *RedisReader::part(const redisReadTask *task, std::string_view bytes)
{
    bool is_first = task->parent->parent == nullptr && task->idx == 0;

    if (!is_first) {
        return answer_.kind == RedisAnswer::Kind::list ? this : nullptr;
    }

    if (task->type != REDIS_REPLY_STRING) {
        return nullptr;
    }

    keep_text(bytes.substr(0, kLongestWord));

    if (answer_.kind == RedisAnswer::Kind::pair) {
        sink_.value(bytes);
    }

    return this;
}

void *RedisReader::string(const redisReadTask *task, std::string_view bytes)
{
    if (task->parent != nullptr) {
        return part(task, bytes);
    }

    answer_ = RedisAnswer();

    switch (task->type) {
    case REDIS_REPLY_STRING:
        answer_.kind = RedisAnswer::Kind::string;
        sink_.value(bytes);
        return this;
    case REDIS_REPLY_STATUS:
        answer_.kind = RedisAnswer::Kind::status;
        return this;
    case REDIS_REPLY_ERROR:
        answer_.kind = RedisAnswer::Kind::error;
        copy_code(bytes, answer_.code);
        keep_text(bytes);
        return this;
    default:
        return nullptr;
    }
}

void RedisReader::keep_text(std::string_view bytes)
{
    std::size_t n = std::min(bytes.size(), kLongestText);

    std::memcpy(text_, bytes.data(), n);
    answer_.text = {text_, n};
}

void *RedisReader::array(const redisReadTask *task, bool of_two, bool of_more)
{
    if (task->type != REDIS_REPLY_ARRAY) {
        return nullptr;
    }

    if (task->parent != nullptr) {
        if (task->parent->parent == nullptr && task->idx == 0) {
            return nullptr;
        }

        // a sentinel's role comes with the names of its masters
        answer_.kind = RedisAnswer::Kind::list;
        return this;
    }

    answer_ = RedisAnswer();
    answer_.kind = of_two ? RedisAnswer::Kind::pair : RedisAnswer::Kind::list;
    return of_two || of_more ? this : nullptr;
}

void *RedisReader::number(const redisReadTask *task, long long value)
{
    if (task->parent == nullptr) {
        answer_ = RedisAnswer();
        answer_.kind = RedisAnswer::Kind::integer;
    } else if (task->parent->parent == nullptr && task->idx == 0) {
        return nullptr;
    }

    answer_.integer = value;
    return this;
}

void *RedisReader::nil(const redisReadTask *task)
{
    if (task->parent != nullptr) {
        return answer_.kind == RedisAnswer::Kind::list && task->idx > 0 ? this : nullptr;
    }

    answer_ = RedisAnswer();
    return this;
}

}  // namespace idempotency
