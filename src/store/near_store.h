// A store whose finished results are also kept near: in memory that the workers
// of this host share, so that a replay needs no round trip and goes on while the
// store itself is down.
//
// A copy that the store has confirmed less than kNearFresh ago answers at once.
// An older one answers only where the store can't be reached: otherwise what
// the store says counts, and the copy is put anew or dropped by it.  So a result
// that the store has forgotten is gone from here kNearFresh later.

#pragma once

#include "zone/cache_zone.h"
#include "core/free_list.h"
#include "core/store.h"
#include "zone/shared_memory.h"

namespace idempotency {

constexpr Millis kNearFresh = 60 * 1000;

class NearStore final : public Store {
public:
    // Both outlive this.
    NearStore(Store &store, SharedMemory &memory);

    // All calls have ended.
    ~NearStore() override;

    NearStore(const NearStore &) = delete;
    NearStore &operator=(const NearStore &) = delete;

    bool open() override { return store_.open(); }
    void close() override { store_.close(); }
    void watch(StoreWatcher *watcher) override { store_.watch(watcher); }
    bool start(Call &call) override;
    KeyId stored_id(const KeyId &id) const override { return store_.stored_id(id); }
    void renew(const Lease *leases, std::size_t count) override { store_.renew(leases, count); }
    StoreFigures figures() override;

private:
    struct Asked;
    using Locked = LockedZone<CacheZone>;

    bool ask(Call &call);
    Call &finish(Asked &asked);
    void handle_claim_reply(Call &call, Millis asked_at);
    void handle_settle_reply(const Call &call, Millis asked_at);

    bool answer_by_copy(Call &call, Millis fresh);
    void put(const KeyId &id, const Pieces &value, Millis lifetime, Millis asked_at);
    void drop(const KeyId &id);

    static char *allocate_value(Call &call, std::size_t size);
    static void on_ended(Call &call);

    Store &store_;
    SharedMemory &memory_;
    FreeList<Asked> unused_;
};

}  // namespace idempotency
