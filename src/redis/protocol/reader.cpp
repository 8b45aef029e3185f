#include "redis/protocol/reader.h"

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

// A value, and a pair with one, begin so, and then comes its length; hiredis is
// told of an empty one in the place of a value that passes it by.
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

// What comes before the length, if there is one.
std::string_view before_length(std::string_view head)
{
    return head.front() == kValueHead.front() ? kValueHead : kPairHead;
}

// What an answer is that begins with `head`, as far as that is known; `length`
// is a value's.
Head read_head(std::string_view head, std::size_t &length)
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

    begin_response();
    return reader_ != nullptr;
}

void RedisReader::begin_response() noexcept
{
    part_ = Part::head;
    refused_ = false;
    passed_by_ = false;
    head_size_ = 0;
    passed_on_ = 0;
    small_left_ = 0;
    end_left_ = 0;
    value_left_ = 0;
    place_ = nullptr;
}

RedisReader::Result RedisReader::next(std::string_view &bytes, RedisAnswer &answer) noexcept
{
    while (!bytes.empty()) {
        switch (part_) {
        case Part::head:
            take_head(bytes);
            break;
        case Part::value:
            take_value(bytes);
            break;
        case Part::plain:
            take_plain(bytes);
            break;
        }

        Result result = finish(answer);

        if (result != Result::more) {
            return result;
        }
    }

    return Result::more;
}

// Whether the answer is one with a large value is known after a few bytes.
void RedisReader::take_head(std::string_view &bytes) noexcept
{
    std::size_t length = 0;
    std::size_t size = std::min(sizeof(head_) - head_size_, bytes.size()) + head_size_;

    // most answers are a line
    if (head_size_ == 0 && !may_have_value(bytes.front())) {
        part_ = Part::plain;
        return;
    }

    std::memcpy(head_ + head_size_, bytes.data(), size - head_size_);

    switch (read_head({head_, size}, length)) {
    case Head::incomplete:
        bytes.remove_prefix(size - head_size_);
        head_size_ = size;
        return;

    case Head::other:
        part_ = Part::plain;
        pass_on({head_, head_size_});
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
        pass_on({head_, head_size_});
        return;
    }

    part_ = Part::value;
    passed_by_ = true;
    value_left_ = length;
    place_ = sink_.value(length);
    pass_on(before);
    pass_on(kEmpty);
}

void RedisReader::take_value(std::string_view &bytes) noexcept
{
    std::size_t n = std::min(value_left_, bytes.size());

    if (place_ != nullptr) {
        std::memcpy(place_, bytes.data(), n);
        place_ += n;
    }

    bytes.remove_prefix(n);
    value_left_ -= n;

    if (value_left_ == 0) {
        part_ = Part::plain;
        place_ = nullptr;
    }
}

// An answer ends with a line: hiredis gets none of the next one, which may be
// one that it is not to have.
void RedisReader::take_plain(std::string_view &bytes) noexcept
{
    std::size_t n = std::min(small_left_ + end_left_, bytes.size());

    if (n == 0) {
        std::size_t end = bytes.find('\n');

        n = end != std::string_view::npos ? end + 1 : bytes.size();
    } else {
        // hiredis does not look at what ends a value
        std::size_t of_value = std::min(small_left_, n);

        refused_ = bytes.substr(of_value, n - of_value)
                   != kLineEnd.substr(kLineEnd.size() - end_left_, n - of_value);
        small_left_ -= of_value;
        end_left_ -= n - of_value;
    }

    pass_on(bytes.substr(0, n));
    bytes.remove_prefix(n);
}

void RedisReader::pass_on(std::string_view bytes) noexcept
{
    passed_on_ += bytes.size();
    refused_ = refused_ || reader_ == nullptr || passed_on_ > kLongestAnswer
               || redisReaderFeed(reader_, bytes.data(), bytes.size()) != REDIS_OK;
}

// Whether the answer is complete.
RedisReader::Result RedisReader::finish(RedisAnswer &answer) noexcept
{
    void *done = nullptr;

    if (part_ != Part::plain || small_left_ + end_left_ > 0) {
        return refused_ ? Result::garbage : Result::more;
    }

    if (refused_ || redisReaderGetReply(reader_, &done) != REDIS_OK) {
        return Result::garbage;
    }

    if (done == nullptr) {
        return Result::more;
    }

    // hiredis makes its other objects itself, of which we ask for none
    if (done != this || reader_->pos != reader_->len) {
        return Result::garbage;
    }

    begin_response();
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

    if (answer_.kind == RedisAnswer::Kind::pair && !passed_by_) {
        copy_value(bytes);
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

        if (!passed_by_) {
            copy_value(bytes);
        }

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

void RedisReader::copy_value(std::string_view bytes)
{
    char *place = sink_.value(bytes.size());

    if (place != nullptr && !bytes.empty()) {
        std::memcpy(place, bytes.data(), bytes.size());
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
