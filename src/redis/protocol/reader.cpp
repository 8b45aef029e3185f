#include "redis/protocol/reader.h"

#include <algorithm>
#include <cstring>

#include <hiredis/read.h>

namespace idempotency {

namespace {

constexpr std::size_t kMaxListText = 16;

// Where an ACL forbids a command that a script calls the error has no code of its
// own: Redis 7.0 has the first text, later versions and Valkey the second.
bool is_forbidden_in_script(std::string_view error)
{
    return error.find("ACL failure in script") != error.npos
           || error.find("The user executing the script can't") != error.npos;
}

void copy_code(std::string_view error, char (&out)[sizeof(ServerReply::code)])
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

// A value and a pair begin with these bytes, then comes the length of the value.
// In the place of a large value hiredis gets an empty one.
constexpr std::string_view kValueHead = "$";
constexpr std::string_view kPairHead = "*2\r\n$";
constexpr std::string_view kEmpty = "0\r\n";
constexpr std::string_view kLineEnd = "\r\n";
constexpr std::size_t kMostDigits = 18;

enum class Head { incomplete, other, value };

bool may_have_value(char first)
{
    return first == kValueHead.front() || first == kPairHead.front();
}

// The bytes before the length of a value, if the reply has a value.
std::string_view before_length(std::string_view head)
{
    return head.front() == kValueHead.front() ? kValueHead : kPairHead;
}

// Whether a reply that begins with `head` has a value, as far as that is known;
// `length` is the length of the value.
Head parse_head(std::string_view head, std::size_t &length)
{
    std::string_view before = before_length(head);
    std::string_view digits = head.substr(std::min(head.size(), before.size()));
    std::size_t n = 0;

    if (head.substr(0, before.size()) != before.substr(0, head.size())) {
        return Head::other;
    }

    length = 0;

    while (n < digits.size() && n < kMostDigits && digits[n] >= '0' && digits[n] <= '9') {
        length = 10 * length + static_cast<std::size_t>(digits[n++] - '0');
    }

    std::string_view end = digits.substr(n, kLineEnd.size());

    if (end.empty() || (end == "\r" && n > 0)) {
        return Head::incomplete;
    }

    return n > 0 && end == kLineEnd ? Head::value : Head::other;
}

}  // namespace

// The functions that hiredis calls to make its objects.  The type of an array's
// length differs between versions of hiredis: the overload that fits is used.
struct RedisReader::Functions {
    static RedisReader *reader_of(const redisReadTask *task)
    {
        return static_cast<RedisReader *>(task->privdata);
    }

    static void *string(const redisReadTask *task, char *bytes, std::size_t size)
    {
        return reader_of(task)->on_string(task, {bytes, size});
    }

    static void *array(const redisReadTask *task, int elements)
    {
        return reader_of(task)->on_array(task, elements == 2, elements > 2);
    }

    static void *array(const redisReadTask *task, std::size_t elements)
    {
        return reader_of(task)->on_array(task, elements == 2, elements > 2);
    }

    static void *integer(const redisReadTask *task, long long value)
    {
        return reader_of(task)->on_integer(task, value);
    }

    static void *nil(const redisReadTask *task) { return reader_of(task)->on_nil(task); }

    // no objects are made
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

    // hiredis only reads the functions
    reader_ = redisReaderCreateWithFunctions(const_cast<redisReplyObjectFunctions *>(&functions));

    if (reader_ != nullptr) {
        reader_->privdata = this;
    }

    begin_reply();
    return reader_ != nullptr;
}

void RedisReader::begin_reply() noexcept
{
    part_ = Part::head;
    failed_ = false;
    has_large_value_ = false;
    head_size_ = 0;
    fed_ = 0;
    small_left_ = 0;
    end_left_ = 0;
    value_left_ = 0;
    value_out_ = nullptr;
}

RedisReader::Result RedisReader::next(std::string_view &bytes, ServerReply &reply) noexcept
{
    while (!bytes.empty()) {
        switch (part_) {
        case Part::head:
            read_head(bytes);
            break;
        case Part::value:
            read_value(bytes);
            break;
        case Part::plain:
            read_plain(bytes);
            break;
        }

        Result result = finish(reply);

        if (result != Result::more) {
            return result;
        }
    }

    return Result::more;
}

// A few bytes tell whether the reply has a large value.
void RedisReader::read_head(std::string_view &bytes) noexcept
{
    std::size_t length = 0;
    std::size_t size = std::min(sizeof(head_) - head_size_, bytes.size()) + head_size_;

    // most replies are a single line
    if (head_size_ == 0 && !may_have_value(bytes.front())) {
        part_ = Part::plain;
        return;
    }

    std::memcpy(head_ + head_size_, bytes.data(), size - head_size_);

    switch (parse_head({head_, size}, length)) {
    case Head::incomplete:
        bytes.remove_prefix(size - head_size_);
        head_size_ = size;
        return;

    case Head::other:
        part_ = Part::plain;
        feed({head_, head_size_});
        return;

    case Head::value:
        break;
    }

    std::string_view before = before_length({head_, size});

    size = std::string_view(head_, size).find('\n', before.size()) + 1;
    bytes.remove_prefix(size - head_size_);
    head_size_ = size;
    end_left_ = kLineEnd.size();

    if (length < kLargeValue) {
        part_ = Part::plain;
        small_left_ = length;
        feed({head_, head_size_});
        return;
    }

    part_ = Part::value;
    has_large_value_ = true;
    value_left_ = length;
    value_out_ = sink_.allocate_value(length);
    feed(before);
    feed(kEmpty);
}

void RedisReader::read_value(std::string_view &bytes) noexcept
{
    std::size_t n = std::min(value_left_, bytes.size());

    if (value_out_ != nullptr) {
        std::memcpy(value_out_, bytes.data(), n);
        value_out_ += n;
    }

    bytes.remove_prefix(n);
    value_left_ -= n;

    if (value_left_ == 0) {
        part_ = Part::plain;
        value_out_ = nullptr;
    }
}

// hiredis gets one line at a time, so that it gets no byte of the next reply,
// which may have a large value.
void RedisReader::read_plain(std::string_view &bytes) noexcept
{
    std::size_t n = std::min(small_left_ + end_left_, bytes.size());

    if (n == 0) {
        std::size_t end = bytes.find('\n');

        n = end != std::string_view::npos ? end + 1 : bytes.size();
    } else {
        // hiredis does not check the line end after a value
        std::size_t of_value = std::min(small_left_, n);

        failed_ = bytes.substr(of_value, n - of_value)
                  != kLineEnd.substr(kLineEnd.size() - end_left_, n - of_value);
        small_left_ -= of_value;
        end_left_ -= n - of_value;
    }

    feed(bytes.substr(0, n));
    bytes.remove_prefix(n);
}

void RedisReader::feed(std::string_view bytes) noexcept
{
    fed_ += bytes.size();
    failed_ = failed_ || reader_ == nullptr || fed_ > kMaxReply
              || redisReaderFeed(reader_, bytes.data(), bytes.size()) != REDIS_OK;
}

// Whether the reply is complete.
RedisReader::Result RedisReader::finish(ServerReply &reply) noexcept
{
    void *done = nullptr;

    if (part_ != Part::plain || small_left_ + end_left_ > 0) {
        return failed_ ? Result::garbage : Result::more;
    }

    if (failed_ || redisReaderGetReply(reader_, &done) != REDIS_OK) {
        return Result::garbage;
    }

    if (done == nullptr) {
        return Result::more;
    }

    // hiredis itself makes the objects of kinds that none of our replies has
    if (done != this || reader_->pos != reader_->len) {
        return Result::garbage;
    }

    begin_reply();
    reply = reply_;
    return Result::reply;
}

// What hiredis calls.  Each returns null to refuse what it got, which makes the
// stream unreadable, and else any pointer.

// An element of an array.
void *RedisReader::on_element(const redisReadTask *task, std::string_view bytes)
{
    bool is_first = task->parent->parent == nullptr && task->idx == 0;

    if (!is_first) {
        return reply_.kind == ServerReply::Kind::list ? this : nullptr;
    }

    if (task->type != REDIS_REPLY_STRING) {
        return nullptr;
    }

    keep_text(bytes.substr(0, kMaxListText));

    if (reply_.kind == ServerReply::Kind::pair && !has_large_value_) {
        copy_value(bytes);
    }

    return this;
}

void *RedisReader::on_string(const redisReadTask *task, std::string_view bytes)
{
    if (task->parent != nullptr) {
        return on_element(task, bytes);
    }

    reply_ = ServerReply();

    switch (task->type) {
    case REDIS_REPLY_STRING:
        reply_.kind = ServerReply::Kind::string;

        if (!has_large_value_) {
            copy_value(bytes);
        }

        return this;
    case REDIS_REPLY_STATUS:
        reply_.kind = ServerReply::Kind::status;
        return this;
    case REDIS_REPLY_ERROR:
        reply_.kind = ServerReply::Kind::error;
        copy_code(bytes, reply_.code);
        keep_text(bytes);
        return this;
    default:
        return nullptr;
    }
}

void RedisReader::copy_value(std::string_view bytes)
{
    char *out = sink_.allocate_value(bytes.size());

    if (out != nullptr && !bytes.empty()) {
        std::memcpy(out, bytes.data(), bytes.size());
    }
}

void RedisReader::keep_text(std::string_view bytes)
{
    std::size_t n = std::min(bytes.size(), kMaxText);

    std::memcpy(text_, bytes.data(), n);
    reply_.text = {text_, n};
}

void *RedisReader::on_array(const redisReadTask *task, bool of_two, bool of_more)
{
    if (task->type != REDIS_REPLY_ARRAY) {
        return nullptr;
    }

    if (task->parent != nullptr) {
        if (task->parent->parent == nullptr && task->idx == 0) {
            return nullptr;
        }

        // the reply of a sentinel to ROLE holds the names of its masters
        reply_.kind = ServerReply::Kind::list;
        return this;
    }

    reply_ = ServerReply();
    reply_.kind = of_two ? ServerReply::Kind::pair : ServerReply::Kind::list;
    return of_two || of_more ? this : nullptr;
}

void *RedisReader::on_integer(const redisReadTask *task, long long value)
{
    if (task->parent == nullptr) {
        reply_ = ServerReply();
        reply_.kind = ServerReply::Kind::integer;
    } else if (task->parent->parent == nullptr && task->idx == 0) {
        return nullptr;
    }

    reply_.integer = value;
    return this;
}

void *RedisReader::on_nil(const redisReadTask *task)
{
    if (task->parent != nullptr) {
        return reply_.kind == ServerReply::Kind::list && task->idx > 0 ? this : nullptr;
    }

    reply_ = ServerReply();
    return this;
}

}  // namespace idempotency
