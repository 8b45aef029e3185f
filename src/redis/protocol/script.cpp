#include "redis/protocol/script.h"

#include <openssl/evp.h>

#include "core/openssl.h"
#include "core/record.h"

namespace idempotency {

namespace {

// The scripts count bytes from 1, GETRANGE from 0.
static_assert(kStateOffset == 7 && kClaimOffset == 8 && sizeof(ClaimId) == 16 && kTokenOffset == 24
                  && sizeof(Token) == 8 && kLifetimeOffset == 32 && sizeof(Millis) == 8,
              "the scripts have the offsets of a record's state, claim, token and lifetime");

// A new token is the time in microseconds, which stays below 2^53 until the year
// 2255, so a Lua number holds it exactly.  A token that the caller wants may be
// larger, and stays a string.
//
// No claim is left for longer than its own lifetime.  It would be without an expiry
// (someone has used PERSIST) or after the clock of Redis has gone back; until then the
// key would be blocked.  A lifetime that PEXPIRE does not take is of a damaged record.
constexpr std::string_view kClaim = R"(
local left = redis.call('PTTL', KEYS[1])
if left ~= -2 then
    local most = tonumber(ARGV[4])
    local size = most > 0 and redis.call('STRLEN', KEYS[1]) or 0
    if size > most then
        return {string.format('%d', left), -size}
    end
    local held = redis.call('GET', KEYS[1])
    local state = held:sub(1, 3) == 'IDM' and #held >= 40 and held:sub(8, 8)
    if state == 'R' or state == 'U' then
        local lifetime = struct.unpack('>I8', held:sub(33, 40))
        if (left == -1 or left > lifetime) and lifetime > 0 and lifetime < 1e14 then
            left = lifetime
            redis.call('PEXPIRE', KEYS[1], left)
        end
    end
    if state ~= 'F' then
        return {held, left}
    end
end
if ARGV[1] == '' then
    return 0
end
local token, answer = ARGV[3], 1
if token == '' then
    local now = redis.call('TIME')
    answer = now[1] * 1000000 + now[2]
    token = struct.pack('>I8', answer)
end
redis.call('SET', KEYS[1], ARGV[1]:sub(1, 24) .. token .. ARGV[1]:sub(33), 'PX', ARGV[2])
return answer
)";

// GETRANGE returns an empty string both for a missing key and for a value that is
// too short: EXISTS tells which.
constexpr std::string_view kSettle = R"(
local held = redis.call('GETRANGE', KEYS[1], 7, 23)
if held:sub(2) ~= ARGV[1] and (held ~= '' or redis.call('EXISTS', KEYS[1]) == 1)
    or held:sub(1, 1) == 'F' then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
)";

constexpr std::string_view kRelease = R"(
if redis.call('GETRANGE', KEYS[1], 7, 23) ~= 'R' .. ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
)";

constexpr std::string_view kRenew = R"(
local claim = redis.call('GETRANGE', KEYS[1], 7, 23)
if claim == 'R' .. ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return claim == '' and redis.call('EXISTS', KEYS[1]) - 1 or 0
)";

constexpr std::string_view kReplace = R"(
local seen = redis.call('EXISTS', KEYS[1]) == 1
if seen and ARGV[1] ~= '' then
    seen = redis.call('GETRANGE', KEYS[1], 7, 23)
    if seen:sub(1, 1) == 'F' then
        seen = false
    elseif seen ~= ARGV[1] then
        return 0
    end
end
if not seen then
    return -1
end
if ARGV[4] ~= '' and redis.call('PTTL', KEYS[1]) > tonumber(ARGV[4]) then
    return 0
end
if ARGV[2] == '' then
    return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
)";

bool write_sha1(std::string_view text, char *out)
{
    static constexpr char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;

    if (!checked(EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha1(), nullptr) == 1)
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
        return kRenew;
    case RedisScript::replace:
        break;
    }

    return kReplace;
}

RedisScripts::RedisScripts() noexcept
{
    usable_ = true;

    for (std::size_t i = 0; i < kRedisScripts; i++) {
        usable_ = usable_ && write_sha1(script_text(RedisScript(i)), shas_[i].data());
    }
}

}  // namespace idempotency
