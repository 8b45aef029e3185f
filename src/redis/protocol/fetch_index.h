// Which large values wait to be fetched, so that calls for the same value share one GET.

#pragma once

#include <cstddef>

#include "core/wire.h"
#include "redis/protocol/command.h"

namespace idempotency {

// Holds the commands of kind `fetch` that wait to be sent.  A command that is in flight is not
// here: its GET may have been executed before the claim of a later call has found the value.
class RedisFetchIndex {
public:
    void add(RedisCommand &fetch) noexcept
    {
        RedisCommand *&first = bucket(fetch.id);

        fetch.next_in_index = first;
        first = &fetch;
    }

    // Does nothing where the command is not in the index.
    void remove(const RedisCommand &fetch) noexcept
    {
        for (RedisCommand **at = &bucket(fetch.id); *at != nullptr; at = &(*at)->next_in_index) {
            if (*at == &fetch) {
                *at = fetch.next_in_index;
                return;
            }
        }
    }

    // A command that waits for the same value, or null.
    RedisCommand *find(const RedisCommand &fetch) const noexcept
    {
        for (RedisCommand *at = buckets_[index_of(fetch.id)]; at != nullptr; at = at->next_in_index)
        {
            if (at->id == fetch.id && at->call->large == fetch.call->large) {
                return at;
            }
        }

        return nullptr;
    }

    void clear() noexcept { *this = RedisFetchIndex(); }

private:
    static constexpr std::size_t kBuckets = 64;

    static std::size_t index_of(const KeyId &id)
    {
        return static_cast<std::size_t>(wire::get_u64(id.bytes.data()) % kBuckets);
    }

    RedisCommand *&bucket(const KeyId &id) { return buckets_[index_of(id)]; }

    RedisCommand *buckets_[kBuckets] = {};
};

}  // namespace idempotency
