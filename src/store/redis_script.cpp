#include "store/redis_script.h"

#include <openssl/evp.h>

#include "core/record.h"

namespace idempotency {

namespace {

// The scripts count bytes from 1, GETRANGE from 0.
static_assert(kStateOffset == 7 && kTokenOffset == 8 && kTokenSize == 8,
              "the scripts know where a record has its state and its token");

// Microseconds stay below 2^53 until the year 2255: a Lua number is exact.
constexpr std::string_view kClaim = R"(
local held = redis.call('GET', KEYS[1])
if held then
    return {held, redis.call('PTTL', KEYS[1])}
end
local now = redis.call('TIME')
local token = now[1] * 1000000 + now[2]
local record = ARGV[1]:sub(1, 8) .. struct.pack('>I8', token) .. ARGV[1]:sub(17)
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
return token
)";

// GETRANGE of a missing key is empty, as it is of a value that is too short.
constexpr std::string_view kSettle = R"(
local token = redis.call('GETRANGE', KEYS[1], 8, 15)
if token ~= ARGV[1] and (token ~= '' or redis.call('EXISTS', KEYS[1]) == 1) then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
)";

constexpr std::string_view kRelease = R"(
if redis.call('GETRANGE', KEYS[1], 7, 15) ~= 'R' .. ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
)";

// One key of another type must not keep the others from being renewed.
constexpr std::string_view kRenew = R"(
local renewed = 0
for i, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 7, 15) == 'R' .. ARGV[2 * i - 1] then
        renewed = renewed + redis.call('PEXPIRE', key, ARGV[2 * i])
    end
end
return renewed
)";

bool write_sha1(std::string_view text, char *out)
{
    static constexpr char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;

    if (EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha1(), nullptr) != 1
        || size != 20)
    {
        return false;
    }

    for (unsigned int i = 0; i < size; i++) {
        *out++ = digits[digest[i] >> 4];
        *out++ = digits[digest[i] & 0xf];
    }

    return true;
}

}  // namespace

std::string_view script_text(RedisScript script)
{
    switch (script) {
    case RedisScript::claim:
        return kClaim;
    case RedisScript::settle:
        return kSettle;
    case RedisScript::release:
        return kRelease;
    case RedisScript::renew:
        break;
    }

    return kRenew;
}

RedisScripts::RedisScripts() noexcept
{
    usable_ = true;

    for (std::size_t i = 0; i < kRedisScripts; i++) {
        usable_ = usable_ && write_sha1(script_text(RedisScript(i)), shas_[i].data());
    }
}

}  // namespace idempotency
