#include "redis/client/cluster_nodes.h"

#include <algorithm>
#include <new>

namespace idempotency {

namespace {

constexpr std::uint16_t kNoNode = RedisSlotMap::kNoNode;

// How long a node without slots is kept: keys may be migrating to it (ASK).
constexpr ngx_msec_t kKeepUnused = 5000;

}  // namespace

struct RedisClusterNodes::Entry {
    Entry(const RedisOptions &options, const RedisScripts &scripts,
          RedisNode::Owner &owner) noexcept
        : node(options, server.server(), scripts, owner)
    {}

    RedisDiscoveredServer server;
    RedisNode node;
    bool has_slots = false;
    bool had_slots = false;  // by the map before
    ngx_msec_t used_at = 0;
    ngx_uint_t round = 0;  // in which the node was picked last
};

RedisClusterNodes::RedisClusterNodes(const RedisOptions &options, const RedisScripts &scripts,
                                     RedisNode::Owner &owner) noexcept
    : options_(options), scripts_(scripts), owner_(owner)
{
    std::fill_n(index_of_slot_, kRedisSlots, kNoNode);
}

RedisClusterNodes::~RedisClusterNodes()
{
    for (Entry *entry : entries_) {
        delete entry;
    }
}

void RedisClusterNodes::close() noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (entries_[i] != nullptr) {
            entries_[i]->node.close();
        }
    }
}

RedisNode *RedisClusterNodes::node_of(std::uint16_t slot) const noexcept
{
    return index_of_slot_[slot] != kNoNode ? &entries_[index_of_slot_[slot]]->node : nullptr;
}

std::uint16_t RedisClusterNodes::find(const RedisEndpoint &endpoint,
                                      const RedisServer &source) const noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (entries_[i] != nullptr && entries_[i]->server.is(endpoint, source)) {
            return i;
        }
    }

    return kNoNode;
}

std::uint16_t RedisClusterNodes::add(const RedisEndpoint &endpoint,
                                     const RedisServer &source) noexcept
{
    auto free = std::find(entries_, entries_ + RedisSlotMap::kMaxNodes, nullptr);

    if (free == entries_ + RedisSlotMap::kMaxNodes) {
        return kNoNode;
    }

    auto entry = new (std::nothrow) Entry(options_, scripts_, owner_);

    if (entry == nullptr || !entry->node.usable() || !entry->server.set(endpoint, source, options_))
    {
        delete entry;
        return kNoNode;
    }

    auto index = static_cast<std::uint16_t>(free - entries_);

    *free = entry;
    end_ = std::max<std::uint16_t>(end_, static_cast<std::uint16_t>(index + 1));
    entry->node.open(log_, true);
    return index;
}

RedisNode *RedisClusterNodes::find_or_add(const RedisEndpoint &endpoint,
                                          const RedisServer &source) noexcept
{
    std::uint16_t index = find(endpoint, source);

    if (index == kNoNode) {
        index = add(endpoint, source);
    }

    if (index == kNoNode) {
        return nullptr;
    }

    entries_[index]->used_at = ngx_current_msec;
    return &entries_[index]->node;
}

void RedisClusterNodes::assign(std::uint16_t slot, const RedisNode &node) noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (entries_[i] != nullptr && &entries_[i]->node == &node) {
            changes_ += entries_[i]->has_slots ? 0 : 1;
            entries_[i]->has_slots = true;
            index_of_slot_[slot] = i;
            return;
        }
    }
}

void RedisClusterNodes::apply_map(const RedisSlotMap &map, const RedisServer &source) noexcept
{
    std::uint16_t indices[RedisSlotMap::kMaxNodes];

    for (std::uint16_t i = 0; i < end_; i++) {
        if (entries_[i] != nullptr) {
            entries_[i]->had_slots = entries_[i]->has_slots;
            entries_[i]->has_slots = false;
        }
    }

    for (std::size_t i = 0; i < map.size(); i++) {
        indices[i] = find(map.node(i), source);

        if (indices[i] == kNoNode) {
            indices[i] = add(map.node(i), source);
        }

        if (indices[i] != kNoNode) {
            entries_[indices[i]]->has_slots = true;
            entries_[indices[i]]->used_at = ngx_current_msec;
        }
    }

    for (std::size_t slot = 0; slot < kRedisSlots; slot++) {
        std::uint16_t owner = map.owner(slot);

        index_of_slot_[slot] = owner != kNoNode ? indices[owner] : kNoNode;
    }

    for (std::uint16_t i = 0; i < end_; i++) {
        if (entries_[i] != nullptr && entries_[i]->has_slots != entries_[i]->had_slots) {
            changes_++;
        }
    }
}

RedisNode *RedisClusterNodes::next_with_slots(std::size_t &index) const noexcept
{
    for (; index < end_; index++) {
        if (entries_[index] != nullptr && entries_[index]->has_slots) {
            return &entries_[index]->node;
        }
    }

    return nullptr;
}

bool RedisClusterNodes::all_available() const noexcept
{
    return std::all_of(entries_, entries_ + end_, [](Entry *entry) {
        return entry == nullptr || !entry->has_slots || entry->node.is_available();
    });
}

std::size_t RedisClusterNodes::read_states(NodeState *out, std::size_t max) const noexcept
{
    std::size_t count = 0;

    for (std::uint16_t i = 0; i < end_ && count < max; i++) {
        if (entries_[i] != nullptr && entries_[i]->has_slots) {
            out[count++] = entries_[i]->node.state();
        }
    }

    return count;
}

RedisNode *RedisClusterNodes::pick(ngx_uint_t round) noexcept
{
    std::uint16_t from = end_ > 0 ? static_cast<std::uint16_t>(ngx_random() % end_) : 0;

    for (std::uint16_t i = 0; i < end_; i++) {
        Entry *entry = entries_[(from + i) % end_];

        if (entry != nullptr && entry->has_slots && entry->node.is_available()
            && entry->round != round) {
            entry->round = round;
            return &entry->node;
        }
    }

    return nullptr;
}

bool RedisClusterNodes::free_unused(const RedisServer *kept) noexcept
{
    bool some_left = false;

    for (std::uint16_t i = 0; i < end_; i++) {
        Entry *entry = entries_[i];

        if (entry == nullptr || entry->has_slots) {
            continue;
        }

        if (!entry->node.idle() || &entry->server.server() == kept
            || ngx_current_msec - entry->used_at < kKeepUnused)
        {
            some_left = true;
            continue;
        }

        entries_[i] = nullptr;
        entry->node.close();
        delete entry;
    }

    while (end_ > 0 && entries_[end_ - 1] == nullptr) {
        end_--;
    }

    return some_left;
}

}  // namespace idempotency
