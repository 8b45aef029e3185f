#include "redis/protocol/encoder.h"

#include <algorithm>
#include <charconv>

#include "core/wire.h"

namespace idempotency {

namespace {

// In bytes.  To copy fewer is cheaper than one more piece of a writev().
constexpr std::size_t kMinReferred = 4096;

RedisScript script_of(RedisCommand::Kind kind)
{
    switch (kind) {
    case RedisCommand::Kind::claim:
        return RedisScript::claim;
    case RedisCommand::Kind::settle:
        return RedisScript::settle;
    case RedisCommand::Kind::release:
        return RedisScript::release;
    case RedisCommand::Kind::replace:
        return RedisScript::replace;
    default:
        return RedisScript::renew;
    }
}

}  // namespace

void RedisEncoder::put_words(std::initializer_list<std::string_view> words) noexcept
{
    auto is_given = [](std::string_view word) { return !word.empty(); };

    put_number('*',
               static_cast<std::uint64_t>(std::count_if(words.begin(), words.end(), is_given)));

    for (std::string_view word : words) {
        if (is_given(word)) {
            put_bulk(word);
        }
    }
}

void RedisEncoder::put(const RedisCommand &command) noexcept
{
    switch (command.kind) {
    case RedisCommand::Kind::claim:
        put_claim(command);
        break;
    case RedisCommand::Kind::settle:
        put_settle(command);
        break;
    case RedisCommand::Kind::release:
        put_release(command);
        break;
    case RedisCommand::Kind::renew:
        put_renew(command);
        break;
    case RedisCommand::Kind::replace:
        put_replace(command);
        break;
    case RedisCommand::Kind::check:
        put_words({command.name()});
        break;
    case RedisCommand::Kind::fetch:
        put_number('*', 2);
        put_bulk(command.name());
        put_key(command.id);
        break;
    case RedisCommand::Kind::wait:
        put_wait();
        break;
    default:
        put_words({command.name()});
    }
}

void RedisEncoder::put_claim(const RedisCommand &claim) noexcept
{
    put_script(claim, 4);
    put_pieces(claim.call->value);
    put_bulk_number(claim.call->lifetime);

    if (claim.call->token != 0) {
        put_token(claim.call->token);
    } else {
        put_bulk({});
    }

    put_bulk_number(options_.inline_limit);
}

void RedisEncoder::put_settle(const RedisCommand &settle) noexcept
{
    put_script(settle, 3);
    put_claim_id(settle);
    put_pieces(settle.call->value);
    put_bulk_number(settle.call->lifetime);
}

void RedisEncoder::put_release(const RedisCommand &release) noexcept
{
    put_script(release, 1);
    put_claim_id(release);
}

void RedisEncoder::put_renew(const RedisCommand &renew) noexcept
{
    put_script(renew, 2);
    put_claim_id(renew);
    put_bulk_number(renew.call->lifetime);
}

void RedisEncoder::put_replace(const RedisCommand &replace) noexcept
{
    const Call &call = *replace.call;

    put_script(replace, 4);
    put_bulk(call.seen);
    put_pieces(call.value);
    put_bulk_number(std::max<Millis>(call.lifetime, 1));

    if (call.most_remaining != kAnyRemaining) {
        put_bulk_number(call.most_remaining);
    } else {
        put_bulk({});
    }
}

void RedisEncoder::put_wait() noexcept
{
    put_number('*', 3);
    put_bulk("WAIT");
    put_bulk_number(options_.replicas);
    put_bulk_number(std::max<Millis>(options_.replica_wait, 1));  // 0: no timeout
}

// Parts of a command

void RedisEncoder::put_number(char mark, std::uint64_t number) noexcept
{
    char text[24] = {mark};
    char *end = std::to_chars(text + 1, text + sizeof(text) - 2, number).ptr;

    *end++ = '\r';
    *end++ = '\n';
    output_.copy({text, static_cast<std::size_t>(end - text)});
}

void RedisEncoder::put_bulk(std::string_view bytes) noexcept
{
    put_number('$', bytes.size());
    output_.copy(bytes);
    output_.copy("\r\n");
}

void RedisEncoder::put_bulk_number(std::uint64_t number) noexcept
{
    char text[24];
    char *end = std::to_chars(text, text + sizeof(text), number).ptr;

    put_bulk({text, static_cast<std::size_t>(end - text)});
}

void RedisEncoder::put_token(Token token) noexcept
{
    unsigned char bytes[sizeof(Token)];

    wire::put_u64(bytes, token);
    put_bulk(wire::view(bytes, sizeof(bytes)));
}

void RedisEncoder::put_claim_id(const RedisCommand &command) noexcept
{
    put_bulk(command.call->claim.view());
}

void RedisEncoder::put_key(const KeyId &id) noexcept
{
    char hex[kHexLength];

    write_hex(id, hex);
    put_number('$', options_.prefix.size() + sizeof(hex));
    output_.copy(options_.prefix);
    output_.copy({hex, sizeof(hex)});
    output_.copy("\r\n");
}

void RedisEncoder::put_pieces(const Pieces &pieces) noexcept
{
    put_number('$', pieces.size());

    for (std::size_t i = 0; i < pieces.count; i++) {
        if (pieces.first[i].size() < kMinReferred) {
            output_.copy(pieces.first[i]);
        } else {
            output_.refer(pieces.first[i]);
        }
    }

    output_.copy("\r\n");
}

// Up to the key; `arguments` follow.
void RedisEncoder::put_script(const RedisCommand &command, std::size_t arguments) noexcept
{
    RedisScript script = script_of(command.kind);

    put_number('*', 3 + 1 + arguments);
    put_bulk(command.as_eval ? "EVAL" : "EVALSHA");
    put_bulk(command.as_eval ? script_text(script) : scripts_.sha(script));
    put_bulk_number(1);
    put_key(command.id);
}

}  // namespace idempotency
