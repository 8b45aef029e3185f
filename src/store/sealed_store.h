// A store that seals records before another store, the inner one, keeps them.
//
// The inner store knows an idempotency key by its stored ids: one for each sealing key
// (core/key_ring.h).  With one sealing key, a call is one call to the inner store.  With
// several - while an operator changes the keys - a claim claims every stored id, always in the
// order of the ring and with one token, and a result is kept under every stored id.  So two
// hosts that have one sealing key in common exclude each other by its stored id, and find each
// other's results under it.

#pragma once

#include "core/free_list.h"
#include "core/key_ring.h"
#include "core/store.h"

namespace idempotency {

class SealedStore final : public Store {
public:
    class Events {
    public:
        // A value that was found could not be opened; the call ends as `unavailable`.
        // `reason` is a string literal, see describe(SealFault).
        virtual void on_open_failed(const KeyId &stored_id, const char *reason) = 0;

    protected:
        ~Events() = default;
    };

    // All three must outlive this object.  `keys` has at least one key.
    SealedStore(Store &inner, KeyRing &keys, Events &events);

    // All calls must have ended: close() of the inner store ends them.
    ~SealedStore() override;

    SealedStore(const SealedStore &) = delete;
    SealedStore &operator=(const SealedStore &) = delete;

    bool open() override { return inner_.open(); }
    void close() override { inner_.close(); }
    void watch(StoreWatcher *watcher) override { inner_.watch(watcher); }
    StoreFigures figures() override { return inner_.figures(); }

    // With n sealing keys the inner calls are made one after the other: the call can take n
    // times the time of one, plus the time to release claims.
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;

    // The stored id by the key that seals.
    KeyId stored_id(const KeyId &id) const override;

private:
    class Operation;

    static constexpr std::size_t kRenewBatch = 256;

    void recycle(Operation *operation);

    Store &inner_;
    KeyRing &keys_;
    Events &events_;
    FreeList<Operation> unused_;
    Lease batch_[kRenewBatch];  // the inner leases of one call of `renew`
};

}  // namespace idempotency
