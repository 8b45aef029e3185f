// A store whose finished results are also kept near: in memory that the workers
// of this host share, so that a replay needs no round trip and goes on while the
// store itself is down.
//
// A copy that the store has confirmed less than kNearFresh ago answers at once.
// An older one answers only where the store can't be reached: otherwise what
// the store says counts, and the copy is put anew or dropped by it.  So a result
// that the store has forgotten is gone from here kNearFresh later.

#pragma once

#include "store/cache_zone.h"
#include "store/free_list.h"
#include "store/store.h"

namespace idempotency {

constexpr Millis kNearFresh = 60 * 1000;

// The memory of the copies, as one process sees it.
class NearMemory {
public:
    // Taken and given back with each use of the zone; it is not recursive.
    virtual CacheZone lock() = 0;
    virtual void unlock() = 0;

    // The clock of the zone.
    virtual Millis now() const = 0;

protected:
    ~NearMemory() = default;
};

class NearStore final : public Store {
public:
    // Both outlive this.
    NearStore(Store &store, NearMemory &memory);

    // All calls have ended.
    ~NearStore() override;

    NearStore(const NearStore &) = delete;
    NearStore &operator=(const NearStore &) = delete;

    bool open() override { return store_.open(); }
    void close() override { store_.close(); }
    void watch(StoreWatcher *watcher) override { store_.watch(watcher); }
    bool start(Call &call) override;
    KeyId known_as(const KeyId &id) const override { return store_.known_as(id); }
    void renew(const Lease *leases, std::size_t count) override { store_.renew(leases, count); }
    StoreFigures figures() override;

private:
    struct Asked;

    bool ask(Call &call);
    Call &finish(Asked &asked);
    void heed_claim(Call &call, Millis asked_at);
    void heed_settle(const Call &call, Millis asked_at);

    bool answer_by_copy(Call &call, Millis fresh);
    void put(const KeyId &id, const Pieces &value, Millis lifetime, Millis asked_at);
    void drop(const KeyId &id);

    static char *give_room(Call &call, std::size_t size);
    static void on_ended(Call &call);

    Store &store_;
    NearMemory &memory_;
    FreeList<Asked> unused_;
};

}  // namespace idempotency
