#include "redis/protocol/query_codec.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <hiredis/hiredis.h>

namespace idempotency {

namespace {

constexpr const char *kNoMemory = "no memory";

// Of all arrays of a reply together.  hiredis allocates an array before its elements have arrived,
// and some 100 bytes for each element.
constexpr std::size_t kMaxElements = 1 << 16;

// hiredis frees nested arrays by recursion; a map of slots has four levels.
constexpr std::size_t kMaxLevels = 7;

// The functions of hiredis itself, except that arrays that are too long or too
// deep are refused.  The type of an array's length differs between versions of
// hiredis.
struct LimitedReader {
    static redisReplyObjectFunctions &table()
    {
        static redisReplyObjectFunctions functions{};

        return functions;
    }

    static decltype(redisReplyObjectFunctions::createArray) &original_create()
    {
        static decltype(redisReplyObjectFunctions::createArray) function = nullptr;

        return function;
    }

    static std::size_t level(const redisReadTask *task)
    {
        std::size_t level = 1;

        for (const redisReadTask *at = task->parent; at != nullptr; at = at->parent) {
            level++;
        }

        return level;
    }

    template <typename Length>
    static void *create_array(const redisReadTask *task, Length elements)
    {
        auto *left = static_cast<std::size_t *>(task->privdata);
        auto count = static_cast<std::size_t>(elements);
        bool fits = count <= *left && level(task) <= kMaxLevels;

        if (fits) {
            *left -= count;
        }

        return fits ? original_create()(task, elements) : nullptr;
    }

    // `left`: how many further elements the reply may have.
    static redisReader *make(std::size_t &left)
    {
        redisReader *reader = redisReaderCreate();

        if (reader == nullptr) {
            return nullptr;
        }

        if (original_create() == nullptr) {
            original_create() = reader->fn->createArray;
            table() = *reader->fn;
            table().createArray = create_array;
        }

        reader->fn = &table();
        reader->privdata = &left;
        return reader;
    }
};

void put_bulk(RedisOutput &output, char mark, std::size_t number)
{
    char line[24] = {mark};
    char *end = std::to_chars(line + 1, line + sizeof(line) - 2, number).ptr;

    *end++ = '\r';
    *end++ = '\n';
    output.copy({line, static_cast<std::size_t>(end - line)});
}

}  // namespace

RedisQueryCodec::~RedisQueryCodec() { free_reader(); }

void RedisQueryCodec::free_reader() noexcept
{
    if (reader_ != nullptr) {
        redisReaderFree(reader_);
        reader_ = nullptr;
    }
}

void RedisQueryCodec::open(std::string_view user, std::string_view password,
                           std::uint32_t database) noexcept
{
    close();
    elements_left_ = kMaxElements;
    reader_ = LimitedReader::make(elements_left_);

    if (reader_ == nullptr) {
        fault_ = kNoMemory;
        return;
    }

    if (!password.empty()) {
        std::string_view words[] = {"AUTH", user, password};

        if (user.empty()) {
            words[1] = password;
        }

        awaits_auth_reply_ = true;
        send(words, user.empty() ? 2 : 3);
        output_.mark_secret();
    }

    if (database != 0) {
        char text[16];
        auto end = std::to_chars(text, text + sizeof(text), database).ptr;
        std::string_view words[] = {"SELECT", {text, static_cast<std::size_t>(end - text)}};

        awaits_select_reply_ = true;
        send(words, 2);
    }
}

void RedisQueryCodec::close() noexcept
{
    free_reader();
    output_.clear();
    read_ = 0;
    awaits_auth_reply_ = false;
    awaits_select_reply_ = false;
    fault_ = nullptr;
}

void RedisQueryCodec::send(const std::string_view *words, std::size_t count) noexcept
{
    put_bulk(output_, '*', count);

    for (std::size_t i = 0; i < count; i++) {
        put_bulk(output_, '$', words[i].size());
        output_.copy(words[i]);
        output_.copy("\r\n");
    }

    if (output_.failed() && fault_ == nullptr) {
        fault_ = kNoMemory;
    }
}

void RedisQueryCodec::input(std::string_view bytes) noexcept
{
    if (fault_ != nullptr || reader_ == nullptr) {
        return;
    }

    read_ += bytes.size();

    if (read_ > max_reply_) {
        fault_ = "its reply is too long";
        return;
    }

    if (redisReaderFeed(reader_, bytes.data(), bytes.size()) != REDIS_OK) {
        fault_ = kNoMemory;
        return;
    }

    while (fault_ == nullptr) {
        void *reply = nullptr;

        if (redisReaderGetReply(reader_, &reply) != REDIS_OK) {
            fault_ = "its replies are not those of Redis";
            return;
        }

        if (reply == nullptr) {
            return;
        }

        read_ = 0;
        elements_left_ = kMaxElements;
        handle(*static_cast<redisReply *>(reply));
        freeReplyObject(reply);
    }
}

void RedisQueryCodec::handle(const redisReply &reply) noexcept
{
    if (reply.type == REDIS_REPLY_ERROR) {
        handle_error(reply);
    } else if (awaits_auth_reply_) {
        awaits_auth_reply_ = false;
    } else if (awaits_select_reply_) {
        awaits_select_reply_ = false;
    } else {
        events_.replied(reply);
    }
}

// The fault goes to the log: so only printable characters, and of an error to AUTH
// only the code, as the rest may repeat what was sent.
void RedisQueryCodec::handle_error(const redisReply &error) noexcept
{
    std::string_view text{error.str, static_cast<std::size_t>(error.len)};
    std::string_view prefix = awaits_auth_reply_ ? "it replied to AUTH with " : "it replied ";

    if (awaits_auth_reply_) {
        text = text.substr(0, text.find(' '));
    }

    std::size_t length = std::min(text.size(), sizeof(error_text_) - 1 - prefix.size());
    char *out = std::copy(prefix.begin(), prefix.end(), error_text_);

    out = std::transform(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length), out,
                         [](char c) { return c >= ' ' && c <= '~' ? c : '?'; });
    *out = '\0';
    fault_ = error_text_;
}

}  // namespace idempotency
