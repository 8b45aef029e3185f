// A store whose records are sealed before another store gets them.
//
// A caller's key is known to that store by another identity, one for each
// sealing key.  With several keys - while they are changed - a claim takes all
// of the identities, always in the same order and with one token, and a result
// is kept under each.  So two nginx that have one key in common exclude each
// other by it, and find each other's results under it.

#pragma once

#include "core/seal.h"
#include "core/free_list.h"
#include "core/store.h"

namespace idempotency {

class SealedStore final : public Store {
public:
    class Events {
    public:
        // A value that was found does not open: the call ends as `unavailable`.
        virtual void refused(const KeyId &stored_id, const char *why) = 0;

    protected:
        ~Events() = default;
    };

    // All of them outlive this object; `keys` has one key at least.
    SealedStore(Store &inner, KeyRing &keys, Events &events);

    // No call runs any more: each has ended when the inner store was closed.
    ~SealedStore() override;

    SealedStore(const SealedStore &) = delete;
    SealedStore &operator=(const SealedStore &) = delete;

    bool open() override { return inner_.open(); }
    void close() override { inner_.close(); }
    void watch(StoreWatcher *watcher) override { inner_.watch(watcher); }
    StoreFigures figures() override { return inner_.figures(); }

    // With several keys a call is several calls to the inner store, one after
    // the other, and takes as much longer at the most.
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;

    // The identity that the key which seals gives.
    KeyId stored_id(const KeyId &id) const override;

private:
    class Job;

    static constexpr std::size_t kRenewedAtOnce = 256;

    void put_back(Job *job);

    Store &inner_;
    KeyRing &keys_;
    Events &events_;
    FreeList<Job> idle_;
    Lease renewed_[kRenewedAtOnce];
};

}  // namespace idempotency
