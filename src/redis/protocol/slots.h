// Which node of a Redis Cluster has a key: the slot of the key, and the map of slots.
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

// CRC-16/XMODEM of `bytes`; `before` is the CRC of the bytes that precede them.
std::uint16_t redis_crc16(std::string_view bytes, std::uint16_t before = 0) noexcept;

// The slots of keys that have a common prefix.  With a hash tag in the prefix
// ("{shop}:") all keys are in one slot, as the cluster specification says.
class RedisKeySlots {
public:
    explicit RedisKeySlots(std::string_view prefix) noexcept;

    std::uint16_t slot(const KeyId &id) const noexcept;

private:
    std::uint16_t crc_;
    bool tagged_;  // `crc_` is that of the hash tag, and the slot of all keys
};

// The address of a node.
struct RedisEndpoint {
    char host[kMaxRedisHost + 1] = "";  // empty: the host of the server that named the node
    std::uint16_t port = 0;

    // False where `name` is too long or has a character that no host name has, or
    // `number` is no port.
    bool set(std::string_view name, std::uint64_t number) noexcept;
};

// The reply of a node to CLUSTER SLOTS.
class RedisSlotMap {
public:
    static constexpr std::size_t kMaxNodes = 1000;
    static constexpr std::uint16_t kNoNode = 0xffff;

    RedisSlotMap() = default;
    ~RedisSlotMap();
    RedisSlotMap(const RedisSlotMap &) = delete;
    RedisSlotMap &operator=(const RedisSlotMap &) = delete;

    // Reads a reply.  Returns null, or what is wrong with the reply: then the map
    // must not be used.  A slot that no node has, or whose node has no known
    // address, has the owner kNoNode.
    const char *read(const redisReply &reply) noexcept;

    // The masters.
    std::size_t size() const { return size_; }
    const RedisEndpoint &node(std::size_t index) const { return nodes_[index]; }

    // The index of the slot's master, or kNoNode.
    std::uint16_t owner(std::size_t slot) const { return owners_[slot]; }

private:
    const char *read_range(const redisReply &range) noexcept;
    const char *find_or_add(const RedisEndpoint &endpoint, std::uint16_t &index) noexcept;

    RedisEndpoint *nodes_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
    std::uint16_t owners_[kRedisSlots];
};

}  // namespace idempotency
