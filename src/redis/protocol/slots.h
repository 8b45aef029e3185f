// Which node of a Redis Cluster has which key: slots of keys, and the map of slots.
//
// The rules are those of the cluster specification
// (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/digest.h"
#include "redis/protocol/redirect.h"

struct redisReply;

namespace idempotency {

// CRC-16/XMODEM of `bytes`; `before` is that of what comes ahead of them.
std::uint16_t redis_crc16(std::string_view bytes, std::uint16_t before = 0) noexcept;

// The slots of keys that all begin with one prefix.  A prefix with a hash tag
// ("{shop}:") puts all of them into one slot, as it is with every Redis client.
class RedisSlotter {
public:
    explicit RedisSlotter(std::string_view prefix) noexcept;

    std::uint16_t slot(const KeyId &id) const noexcept;

private:
    std::uint16_t crc_;
    bool tagged_;  // `crc_` is the hash tag's: what follows the prefix does not count
};

// Where a node listens.
struct RedisEndpoint {
    char host[kLongestRedisHost + 1] = "";  // empty: the host that was asked
    std::uint16_t port = 0;

    // False where `name` does not fit or cannot be a host's.
    bool set(std::string_view name, std::uint64_t number) noexcept;
};

// What a node answered to CLUSTER SLOTS.
class RedisSlotMap {
public:
    static constexpr std::size_t kMostNodes = 1000;
    static constexpr std::uint16_t kNobody = 0xffff;

    RedisSlotMap() = default;
    ~RedisSlotMap();
    RedisSlotMap(const RedisSlotMap &) = delete;
    RedisSlotMap &operator=(const RedisSlotMap &) = delete;

    // Takes over an answer.  Null, or what is wrong with it: the map is of no
    // use then.  Slots that nobody has, or whose node says not where it is, are
    // kNobody's.
    const char *read(const redisReply &reply) noexcept;

    // The masters.
    std::size_t size() const { return size_; }
    const RedisEndpoint &node(std::size_t index) const { return nodes_[index]; }

    // The index of the slot's master, or kNobody.
    std::uint16_t owner(std::size_t slot) const { return owners_[slot]; }

private:
    const char *read_range(const redisReply &range) noexcept;
    const char *find_or_add(const RedisEndpoint &endpoint, std::uint16_t &index) noexcept;

    RedisEndpoint *nodes_ = nullptr;
    std::size_t size_ = 0;
    std::size_t room_ = 0;
    std::uint16_t owners_[kRedisSlots];
};

}  // namespace idempotency
