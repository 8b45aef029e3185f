// A store whose results are also copied into a cache, in memory that the workers of this host
// share.  A replay from a copy needs no round trip, and works while the store is unavailable.
//
// For kNearFresh after the store has last confirmed the result, a claim ends with the copy, and the
// store gets no call.  An older copy is used only if the store is unavailable; otherwise the store's
// reply counts, and renews or removes the copy.  So a result that was deleted from the store is
// replayed from copies for up to kNearFresh.
//
// A claim that ended in the store as `unavailable` and was sent, and to which a copy replies, ends
// as `found` with Reply::sent: the store may have granted the claim, so the caller releases it.
//
// Only results (`kept`, `not_kept`) are copied: claims and unknown outcomes change.

#pragma once

#include "core/free_list.h"
#include "core/store.h"
#include "zone/cache_zone.h"
#include "zone/shared_memory.h"

namespace idempotency {

constexpr Millis kNearFresh = 60 * 1000;

class NearStore final : public Store {
public:
    // Both must outlive this object.  `memory` holds a CacheZone.
    NearStore(Store &store, SharedMemory &memory);

    // All calls must have ended.
    ~NearStore() override;

    NearStore(const NearStore &) = delete;
    NearStore &operator=(const NearStore &) = delete;

    bool open() override { return store_.open(); }
    void close() override { store_.close(); }
    void watch(StoreWatcher *watcher) override { store_.watch(watcher); }
    bool start(Call &call) override;
    KeyId stored_id(const KeyId &id) const override { return store_.stored_id(id); }
    bool walk(WalkStep &step) override { return store_.walk(step); }
    StoreFigures figures() override;
    std::size_t nodes(NodeState *out, std::size_t max) override { return store_.nodes(out, max); }

private:
    struct StoreCall;
    using Locked = LockedZone<CacheZone>;

    bool call_store(Call &call);
    Call &finish(StoreCall &store_call);
    void handle_lookup_reply(const Call &call);
    void handle_claim_reply(Call &call, Millis sent_at);
    void handle_settle_reply(const Call &call, Millis sent_at);

    bool reply_from_copy(Call &call, Millis max_age, bool sent);
    void put_copy(const KeyId &id, const Pieces &value, Millis lifetime, Millis sent_at);
    void remove_copy(const KeyId &id);

    static char *allocate_value(Call &call, std::size_t size);
    static void on_ended(Call &call);

    Store &store_;
    SharedMemory &memory_;
    FreeList<StoreCall> unused_;
    std::uint64_t evictions_ = 0;
};

}  // namespace idempotency
