#include "redis/protocol/dialogue.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <hiredis/hiredis.h>

namespace idempotency {

namespace {

constexpr const char *kNoMemory = "no memory";

// hiredis makes room for a list before its elements are there.
constexpr std::size_t kMostElements = 1 << 16;

// It frees lists within lists by calling itself; a map of slots has four levels.
constexpr std::size_t kMostLevels = 7;

// hiredis' own functions, but for lists that are too long or too deep.  The type
// of a length differs between its versions.
struct Limited {
    static redisReplyObjectFunctions &table()
    {
        static redisReplyObjectFunctions functions{};

        return functions;
    }

    static decltype(redisReplyObjectFunctions::createArray) &create()
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
    static void *array(const redisReadTask *task, Length elements)
    {
        bool fits =
            static_cast<std::size_t>(elements) <= kMostElements && level(task) <= kMostLevels;

        return fits ? create()(task, elements) : nullptr;
    }

    static redisReader *reader()
    {
        redisReader *reader = redisReaderCreate();

        if (reader == nullptr) {
            return nullptr;
        }

        if (create() == nullptr) {
            create() = reader->fn->createArray;
            table() = *reader->fn;
            table().createArray = array;
        }

        reader->fn = &table();
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

RedisDialogue::~RedisDialogue() { end_reader(); }

void RedisDialogue::end_reader() noexcept
{
    if (reader_ != nullptr) {
        redisReaderFree(reader_);
        reader_ = nullptr;
    }
}

void RedisDialogue::open(std::string_view user, std::string_view password) noexcept
{
    close();
    reader_ = Limited::reader();

    if (reader_ == nullptr) {
        fault_ = kNoMemory;
        return;
    }

    if (!password.empty()) {
        std::string_view words[] = {"AUTH", user, password};

        if (user.empty()) {
            words[1] = password;
        }

        authenticates_ = true;
        ask(words, user.empty() ? 2 : 3);
    }
}

void RedisDialogue::close() noexcept
{
    end_reader();
    output_.clear();
    read_ = 0;
    authenticates_ = false;
    fault_ = nullptr;
}

void RedisDialogue::ask(const std::string_view *words, std::size_t count) noexcept
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

void RedisDialogue::input(std::string_view bytes) noexcept
{
    if (fault_ != nullptr || reader_ == nullptr) {
        return;
    }

    read_ += bytes.size();

    if (read_ > most_) {
        fault_ = "its answer is too long";
        return;
    }

    if (redisReaderFeed(reader_, bytes.data(), bytes.size()) != REDIS_OK) {
        fault_ = kNoMemory;
        return;
    }

    while (fault_ == nullptr) {
        void *reply = nullptr;

        if (redisReaderGetReply(reader_, &reply) != REDIS_OK) {
            fault_ = "its answers are not those of Redis";
            return;
        }

        if (reply == nullptr) {
            return;
        }

        read_ = 0;
        take(*static_cast<redisReply *>(reply));
        freeReplyObject(reply);
    }
}

void RedisDialogue::take(const redisReply &reply) noexcept
{
    if (reply.type == REDIS_REPLY_ERROR) {
        refuse(reply);
    } else if (authenticates_) {
        authenticates_ = false;
    } else {
        events_.answered(reply);
    }
}

// What it says goes to the log: text only, and of an answer to AUTH the code
// alone, since the rest may repeat what was sent.
void RedisDialogue::refuse(const redisReply &error) noexcept
{
    std::string_view text{error.str, static_cast<std::size_t>(error.len)};
    std::string_view intro = authenticates_ ? "it answers AUTH with " : "it answers ";

    if (authenticates_) {
        text = text.substr(0, text.find(' '));
    }

    std::size_t length = std::min(text.size(), sizeof(refusal_) - 1 - intro.size());
    char *out = std::copy(intro.begin(), intro.end(), refusal_);

    out = std::transform(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length), out,
                         [](char c) { return c >= ' ' && c <= '~' ? c : '?'; });
    *out = '\0';
    fault_ = refusal_;
}

}  // namespace idempotency
