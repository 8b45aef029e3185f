// The nodes of a cluster to which a worker has connections, and which slots
// are whose.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>
#include <cstdint>

#include "redis/client/node.h"
#include "redis/client/peer.h"
#include "redis/protocol/slots.h"

namespace idempotency {

class RedisMembers {
public:
    // All three outlive this object.
    RedisMembers(const RedisOptions &options, const RedisScripts &scripts,
                 RedisNode::Owner &owner) noexcept;
    ~RedisMembers();
    RedisMembers(const RedisMembers &) = delete;
    RedisMembers &operator=(const RedisMembers &) = delete;

    // Before anything else, in a worker.  `log` outlives this object.
    void open(ngx_log_t *log) noexcept { log_ = log; }

    // Every call ends, as `unavailable`.
    void close() noexcept;

    // The node that has a slot, or null.
    RedisNode *owner(std::uint16_t slot) const noexcept;

    // A node, which is new and is being connected to where it was not known;
    // null where there is no memory, or there are too many.  It lasts for a
    // while, and for as long as it has slots or is waited for.  `teller` is who
    // named it.
    RedisNode *find_or_add(const RedisEndpoint &endpoint, const RedisServer &teller) noexcept;

    // A slot has moved to a node of these.
    void assign(std::uint16_t slot, const RedisNode &node) noexcept;

    // Another map, told by `teller`.
    void apply(const RedisSlotMap &map, const RedisServer &teller) noexcept;

    // Whether all nodes that have slots are in order, as far as is known.
    bool all_answer() const noexcept;

    // One of those that are, and for which this was not called in this `round`;
    // or null.
    RedisNode *pick(ngx_uint_t round) noexcept;

    // Closes and frees nodes without slots, but for the one with the server
    // `kept`.  True where some are left for later.  To be called from nowhere
    // within a node's event.
    bool sweep(const RedisServer *kept) noexcept;

private:
    struct Member;

    std::uint16_t find(const RedisEndpoint &endpoint, const RedisServer &teller) const noexcept;
    std::uint16_t add(const RedisEndpoint &endpoint, const RedisServer &teller) noexcept;

    const RedisOptions &options_;
    const RedisScripts &scripts_;
    RedisNode::Owner &owner_;
    ngx_log_t *log_ = nullptr;

    Member *members_[RedisSlotMap::kMostNodes] = {};
    std::uint16_t end_ = 0;              // behind the last of them
    std::uint16_t owners_[kRedisSlots];  // indices, or RedisSlotMap::kNobody
};

}  // namespace idempotency
