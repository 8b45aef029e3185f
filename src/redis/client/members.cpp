#include "redis/client/members.h"

#include <algorithm>
#include <new>

namespace idempotency {

namespace {

constexpr std::uint16_t kNobody = RedisSlotMap::kNobody;

// How long a node without slots is kept: keys may be on their way to it.
constexpr ngx_msec_t kKeptUnused = 5000;

}  // namespace

struct RedisMembers::Member {
    Member(const RedisOptions &options, const RedisScripts &scripts,
           RedisNode::Owner &owner) noexcept
        : node(options, peer.server(), scripts, owner)
    {}

    RedisPeer peer;
    RedisNode node;
    bool has_slots = false;
    ngx_msec_t used_at = 0;
    ngx_uint_t round = 0;  // in which it was picked last
};

RedisMembers::RedisMembers(const RedisOptions &options, const RedisScripts &scripts,
                           RedisNode::Owner &owner) noexcept
    : options_(options), scripts_(scripts), owner_(owner)
{
    std::fill_n(owners_, kRedisSlots, kNobody);
}

RedisMembers::~RedisMembers()
{
    for (Member *member : members_) {
        delete member;
    }
}

void RedisMembers::close() noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (members_[i] != nullptr) {
            members_[i]->node.close();
        }
    }
}

RedisNode *RedisMembers::owner(std::uint16_t slot) const noexcept
{
    return owners_[slot] != kNobody ? &members_[owners_[slot]]->node : nullptr;
}

std::uint16_t RedisMembers::find(const RedisEndpoint &endpoint,
                                 const RedisServer &teller) const noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (members_[i] != nullptr && members_[i]->peer.is(endpoint, teller)) {
            return i;
        }
    }

    return kNobody;
}

std::uint16_t RedisMembers::add(const RedisEndpoint &endpoint, const RedisServer &teller) noexcept
{
    auto free = std::find(members_, members_ + RedisSlotMap::kMostNodes, nullptr);

    if (free == members_ + RedisSlotMap::kMostNodes) {
        return kNobody;
    }

    auto member = new (std::nothrow) Member(options_, scripts_, owner_);

    if (member == nullptr || !member->node.usable()
        || !member->peer.set(endpoint, teller, options_)) {
        delete member;
        return kNobody;
    }

    auto index = static_cast<std::uint16_t>(free - members_);

    *free = member;
    end_ = std::max<std::uint16_t>(end_, static_cast<std::uint16_t>(index + 1));
    member->node.open(log_);
    return index;
}

RedisNode *RedisMembers::find_or_add(const RedisEndpoint &endpoint,
                                     const RedisServer &teller) noexcept
{
    std::uint16_t index = find(endpoint, teller);

    if (index == kNobody) {
        index = add(endpoint, teller);
    }

    if (index == kNobody) {
        return nullptr;
    }

    members_[index]->used_at = ngx_current_msec;
    return &members_[index]->node;
}

void RedisMembers::assign(std::uint16_t slot, const RedisNode &node) noexcept
{
    for (std::uint16_t i = 0; i < end_; i++) {
        if (members_[i] != nullptr && &members_[i]->node == &node) {
            members_[i]->has_slots = true;
            owners_[slot] = i;
            return;
        }
    }
}

void RedisMembers::apply(const RedisSlotMap &map, const RedisServer &teller) noexcept
{
    std::uint16_t indices[RedisSlotMap::kMostNodes];

    for (std::uint16_t i = 0; i < end_; i++) {
        if (members_[i] != nullptr) {
            members_[i]->has_slots = false;
        }
    }

    for (std::size_t i = 0; i < map.size(); i++) {
        indices[i] = find(map.node(i), teller);

        if (indices[i] == kNobody) {
            indices[i] = add(map.node(i), teller);
        }

        if (indices[i] != kNobody) {
            members_[indices[i]]->has_slots = true;
            members_[indices[i]]->used_at = ngx_current_msec;
        }
    }

    for (std::size_t slot = 0; slot < kRedisSlots; slot++) {
        std::uint16_t owner = map.owner(slot);

        owners_[slot] = owner != kNobody ? indices[owner] : kNobody;
    }
}

bool RedisMembers::all_answer() const noexcept
{
    return std::all_of(members_, members_ + end_, [](Member *member) {
        return member == nullptr || !member->has_slots || member->node.answers();
    });
}

RedisNode *RedisMembers::pick(ngx_uint_t round) noexcept
{
    std::uint16_t from = end_ > 0 ? static_cast<std::uint16_t>(ngx_random() % end_) : 0;

    for (std::uint16_t i = 0; i < end_; i++) {
        Member *member = members_[(from + i) % end_];

        if (member != nullptr && member->has_slots && member->node.answers()
            && member->round != round) {
            member->round = round;
            return &member->node;
        }
    }

    return nullptr;
}

bool RedisMembers::sweep(const RedisServer *kept) noexcept
{
    bool some_left = false;

    for (std::uint16_t i = 0; i < end_; i++) {
        Member *member = members_[i];

        if (member == nullptr || member->has_slots) {
            continue;
        }

        if (!member->node.idle() || &member->peer.server() == kept
            || ngx_current_msec - member->used_at < kKeptUnused)
        {
            some_left = true;
            continue;
        }

        members_[i] = nullptr;
        member->node.close();
        delete member;
    }

    while (end_ > 0 && members_[end_ - 1] == nullptr) {
        end_--;
    }

    return some_left;
}

}  // namespace idempotency
