#include "redis/client/key_scan.h"

#include <charconv>

#include <hiredis/hiredis.h>

#include "core/digest.h"

namespace idempotency {

namespace {

// How many buckets Redis looks at in one step.  Redis runs no other command meanwhile, for less
// than a millisecond.
constexpr std::string_view kCount = "500";

// In bytes.  A reply has about as many keys as a step has buckets.
constexpr std::size_t kMaxReply = 4 * 1024 * 1024;

std::string_view text_of(const redisReply &reply)
{
    return reply.type == REDIS_REPLY_STRING ? std::string_view(reply.str, reply.len)
                                            : std::string_view();
}

bool has_special_meaning(char c)
{
    return c == '*' || c == '?' || c == '[' || c == ']' || c == '\\' || c == '^' || c == '-';
}

}  // namespace

RedisKeyScan::RedisKeyScan(const RedisOptions &options) noexcept
    : options_(options), query_(options, options.servers[0], kMaxReply, *this)
{}

void RedisKeyScan::open(ngx_log_t *log) noexcept
{
    log_ = log;
    query_.open(log);
}

void RedisKeyScan::close() noexcept
{
    WalkStep *step = step_;

    query_.close();
    step_ = nullptr;

    if (step != nullptr) {
        step->failed = true;
        step->ended(*step);
    }
}

// The prefix, with a backslash before each character that has a meaning in a pattern, and `*`.
// False: it is too long.
bool RedisKeyScan::make_pattern() noexcept
{
    pattern_size_ = 0;

    for (char c : view(options_.prefix)) {
        if (pattern_size_ + 3 > sizeof(pattern_)) {
            return false;
        }

        if (has_special_meaning(c)) {
            pattern_[pattern_size_++] = '\\';
        }

        pattern_[pattern_size_++] = c;
    }

    pattern_[pattern_size_++] = '*';
    return true;
}

bool RedisKeyScan::start(WalkStep &step, RedisServer &server, bool is_last_part) noexcept
{
    char *end = std::to_chars(cursor_, cursor_ + sizeof(cursor_), step.position).ptr;

    step.failed = step_ != nullptr || log_ == nullptr || !make_pattern();

    if (step.failed) {
        return true;
    }

    words_[0] = "SCAN";
    words_[1] = {cursor_, static_cast<std::size_t>(end - cursor_)};
    words_[2] = "MATCH";
    words_[3] = {pattern_, pattern_size_};
    words_[4] = "COUNT";
    words_[5] = kCount;

    RedisQuery::Command command{words_, 6, options_.user, options_.password};

    command.database = options_.database;
    step_ = &step;
    is_last_part_ = is_last_part;
    is_starting_ = true;
    query_.start(server, command);
    is_starting_ = false;
    return step_ == nullptr;
}

// A key of this module ends with 64 hexadecimal digits.
void RedisKeyScan::report(std::string_view name) noexcept
{
    KeyId id;

    if (name.size() == options_.prefix.len + kHexLength
        && parse_hex(name.substr(options_.prefix.len), id))
    {
        step_->found(*step_, id);
    }
}

const char *RedisKeyScan::read(RedisQuery &, const redisReply &reply)
{
    constexpr const char *fault = "its reply to SCAN can't be read";

    if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 2
        || reply.element[1]->type != REDIS_REPLY_ARRAY)
    {
        return fault;
    }

    std::string_view cursor = text_of(*reply.element[0]);
    std::uint64_t position = 0;
    auto read = std::from_chars(cursor.data(), cursor.data() + cursor.size(), position);

    if (cursor.empty() || read.ec != std::errc() || read.ptr != cursor.data() + cursor.size()) {
        return fault;
    }

    const redisReply &keys = *reply.element[1];

    for (std::size_t i = 0; i < keys.elements; i++) {
        report(text_of(*keys.element[i]));
    }

    step_->position = position;
    step_->is_last = position == 0 && is_last_part_;
    step_->part += position == 0 ? 1 : 0;

    return nullptr;
}

void RedisKeyScan::ended(RedisQuery &query, const char *fault, ngx_err_t error)
{
    WalkStep *step = step_;

    if (fault != nullptr) {
        ngx_log_error(NGX_LOG_ERR, log_, error,
                      "idempotency: store \"%V\": redis \"%V\" has not listed its keys (SCAN): %s",
                      &options_.store, &query.server().name, fault);
    }

    step_ = nullptr;
    step->failed = fault != nullptr;

    if (!is_starting_) {
        step->ended(*step);
    }
}

}  // namespace idempotency
