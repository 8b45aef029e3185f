// The nodes of a cluster to which a worker has connections, and the node of each
// slot.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <cstdint>

#include "redis/client/node.h"
#include "redis/client/discovered_server.h"
#include "redis/protocol/slots.h"

namespace idempotency {

class RedisClusterNodes {
public:
    // All three outlive this object.
    RedisClusterNodes(const RedisOptions &options, const RedisScripts &scripts,
                      RedisNode::Owner &owner) noexcept;
    ~RedisClusterNodes();
    RedisClusterNodes(const RedisClusterNodes &) = delete;
    RedisClusterNodes &operator=(const RedisClusterNodes &) = delete;

    // Before anything else, in a worker.  `log` outlives this object.
    void open(ngx_log_t *log) noexcept { log_ = log; }

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // The node that has a slot, or null.
    RedisNode *node_of(std::uint16_t slot) const noexcept;

    // The node at `endpoint`, as named by `source`; a node that was not known is
    // added and connected to.  Null where there is no memory, or there are too many
    // nodes.  `free_unused` frees it only when it has had no slots for some
    // seconds and no call waits for it.
    RedisNode *find_or_add(const RedisEndpoint &endpoint, const RedisServer &source) noexcept;

    // A slot has moved to one of these nodes.
    void assign(std::uint16_t slot, const RedisNode &node) noexcept;

    // Takes over a new map, which `source` has sent.
    void apply_map(const RedisSlotMap &map, const RedisServer &source) noexcept;

    // Counts how often a node got its first slot or lost its last one.
    ngx_uint_t changes() const { return changes_; }

    // The first node with slots whose index is `index` or higher, and this index; or null.
    RedisNode *next_with_slots(std::size_t &index) const noexcept;

    // Whether all nodes that have slots are available, as far as is known.
    bool all_available() const noexcept;

    // For the metrics: the nodes that have slots, at most `max`; returns how many.
    std::size_t read_states(NodeState *out, std::size_t max) const noexcept;

    // A random node that has slots, is available and was not picked in this `round`
    // yet; or null.
    RedisNode *pick(ngx_uint_t round) noexcept;

    // Closes and frees nodes without slots, except the one with the server `kept`.
    // True where nodes without slots are left, to be freed later.  Must not be
    // called from within an event of a node.
    bool free_unused(const RedisServer *kept) noexcept;

private:
    struct Entry;

    std::uint16_t find(const RedisEndpoint &endpoint, const RedisServer &source) const noexcept;
    std::uint16_t add(const RedisEndpoint &endpoint, const RedisServer &source) noexcept;

    const RedisOptions &options_;
    const RedisScripts &scripts_;
    RedisNode::Owner &owner_;
    ngx_log_t *log_ = nullptr;

    Entry *entries_[RedisSlotMap::kMaxNodes] = {};
    std::uint16_t end_ = 0;                     // behind the last entry
    std::uint16_t index_of_slot_[kRedisSlots];  // or RedisSlotMap::kNoNode
    ngx_uint_t changes_ = 0;
};

}  // namespace idempotency
